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

// Challenge is what a caller is told when only the user can help.
type Challenge struct {
	// AuthorizeURL is the link for the user; empty when none could be made.
	AuthorizeURL string
	// ExpiresIn is how long the link lives; zero without a link.
	ExpiresIn time.Duration
	Card      CardResult
	// RetryAfter is when asking again may bring something new.
	RetryAfter time.Duration
}

// Lookup says where a token was found, for traces and metrics. The strings are
// the label of larkside_token_lookups_total.
type Lookup string

const (
	// FromCache: a fresh entry of this process.
	FromCache Lookup = "cache"
	// FromDatabase: the row.
	FromDatabase Lookup = "database"
	// Refreshed: this call ran the refresh it needed.
	Refreshed Lookup = "refreshed"
	// Waited: another call or another replica ran it.
	Waited Lookup = "waited"
	// Missing: there is none to be had; the error says why.
	Missing Lookup = "missing"
)
