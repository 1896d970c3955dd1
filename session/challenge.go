package session

import "time"

// CardResult says what became of the auth card. The strings are the contract's
// error.card.
type CardResult string

const (
	CardSent        CardResult = "sent"
	CardAlreadySent CardResult = "already_sent"
	CardRateLimited CardResult = "rate_limited"
	CardFailed      CardResult = "failed"
	CardOff         CardResult = "off"
)

// CardResults describes each [CardResult].
func CardResults() []Word {
	return []Word{
		{string(CardSent), "the user has got a card with the link", "wait for the click"},
		{string(CardAlreadySent), "an earlier call sent the card, and its link is still open", "wait for the click"},
		{string(CardRateLimited), "no card now: `LARKSIDE_CONSENT_RATE` is reached, or this caller's share of the messages that Lark takes is used up. The redirect flow gives the link all the same", "show the link, if there is one; a later call sends the card"},
		{string(CardFailed), "the bot can't reach this user, or Lark gave no link", "show the link, if there is one. Operator: the log line `can't send a card` or `can't start a consent` says why"},
		{string(CardOff), "`LARKSIDE_CARD=off`: no cards are sent", "show the link"},
	}
}

// Challenge is what a caller is told when only the user can help.
type Challenge struct {
	// AuthorizeURL is the link for the user. It is empty when there is none.
	AuthorizeURL string
	// ExpiresIn is how long the link works. It is zero without a link.
	ExpiresIn time.Duration
	Card      CardResult
	// RetryAfter is when asking again may bring something new.
	RetryAfter time.Duration
}

// Lookup says where a token was found, for traces and metrics. The strings are
// the label of larkside_token_lookups_total.
type Lookup string

const (
	// FromCache: the token was in this process's cache.
	FromCache Lookup = "cache"
	// FromDatabase: the token was read from the database.
	FromDatabase Lookup = "database"
	// Refreshed: this call refreshed the token.
	Refreshed Lookup = "refreshed"
	// Waited: another call or another replica refreshed the token.
	Waited Lookup = "waited"
	// Missing: there is no token; the error says why.
	Missing Lookup = "missing"
)

// Limit is a ceiling: at most N calls in any Period.
type Limit struct {
	N      int
	Period time.Duration
}

// mostShares bounds into how many parts what callers share is cut.
const mostShares = 4

// Share returns how much of total one caller may use: an equal part. With more
// than four callers it is a quarter, since they are seldom busy at once. So no
// caller can use up what all share.
func Share(total, callers int) int {
	return max(1, total/min(max(1, callers), mostShares))
}

// Share returns the part of l that one caller may use. See [Share].
func (l Limit) Share(callers int) Limit {
	return Limit{N: Share(l.N, callers), Period: l.Period}
}
