package session

// TokenCall is a kind of call to an app's token endpoint. All of them share one
// rate, and of those that wait for it the lower kind goes first.
type TokenCall int

const (
	// CodeExchange: a browser waits for it.
	CodeExchange TokenCall = iota
	// AwaitedRefresh: a request waits for it.
	AwaitedRefresh
	// DevicePoll is for a consent that may just have been answered: its user
	// has called or clicked since the last poll, or a request waits for it.
	DevicePoll
	// QuietPoll is for a consent of which nothing was heard.
	QuietPoll
	// IdleRefresh: nobody waits for it.
	IdleRefresh
	// TokenCalls is how many kinds there are.
	TokenCalls
)

// String returns the kind as metrics name it.
func (c TokenCall) String() string {
	if c < 0 || c >= TokenCalls {
		return "unknown"
	}
	return [TokenCalls]string{"exchange", "urgent", "poll", "quiet_poll", "idle"}[c]
}
