package consent

import (
	"context"
	"sync"
	"time"

	"larkside/session"
)

// startRates bound the consents started for one app, over all users and
// replicas. Each needs a message, and Lark takes 50/s and 1000/min. Each caller
// has a share of them, so that user ids that one invents don't use up what the
// others need. Source: Lark "send message", rate limits.
var startRates = []session.Limit{{N: 40, Period: time.Second}, {N: 900, Period: time.Minute}}

const (
	// unknownCost is how many starts it costs a caller to name a user whom Lark
	// does not know.
	unknownCost = 10
	// cardlessPart: of the consents that a caller may have open, one in so many
	// may wait for its card. Without a card nobody knows whether the user
	// exists.
	cardlessPart = 4
	// ownCaller counts what Larkside starts by itself: for operators, for clicks
	// and before a grant ends. No caller can have this name.
	ownCaller = ":larkside"
)

// admission is the right to start a consent.
type admission struct {
	// granted: a consent may be started. If not, wait is when to ask again.
	granted bool
	wait    time.Duration
	// card: its card may be sent now.
	card bool
}

// admitStart decides whether caller may start a consent for a user of appID. In
// the redirect flow the link costs Lark nothing, so it is given even if the card
// has to wait.
func (m *Manager) admitStart(ctx context.Context, appID, caller string) (admission, error) {
	callers := m.callers()
	open, err := m.consents.History.PendingBy(ctx, caller)
	if err != nil {
		return admission{}, err
	}
	mayHave := session.Share(m.maxPending, callers)
	if open.All >= m.maxPending || open.Theirs >= mayHave {
		return admission{wait: retryFailed}, nil
	}
	card, wait, err := m.admitCard(ctx, appID, caller)
	if err != nil || card {
		return admission{granted: card, card: card}, err
	}
	if m.flow == session.RedirectFlow && open.WithoutCard < max(1, mayHave/cardlessPart) {
		return admission{granted: true}, nil
	}
	return admission{wait: wait}, nil
}

// admitCard reports whether a message may be sent to a user of appID on behalf
// of caller. If not, wait is when to ask again.
func (m *Manager) admitCard(ctx context.Context, appID, caller string) (admitted bool, wait time.Duration, err error) {
	// The caller's own part comes first: a refused request must not use up what
	// all share.
	n, wait, err := m.rates.Take(ctx, shareName(appID, caller), shares(m.callers()), 1)
	if err == nil && n > 0 {
		n, wait, err = m.rates.Take(ctx, "consent/"+appID, startRates, 1)
	}
	return n > 0, max(wait, retrySoon), err
}

// chargeUnknown charges the caller that p was started for, since Lark does not
// know p's user. A sole caller is not charged: nobody is there to be protected
// from it. Nothing is charged if the database fails.
func (m *Manager) chargeUnknown(ctx context.Context, p *session.Consent) {
	if callers := m.callers(); callers > 1 {
		m.rates.Take(ctx, shareName(p.AppID, p.Caller), shares(callers), unknownCost-1)
	}
}

func shareName(appID, caller string) string { return "consent/" + appID + "/" + caller }

func shares(callers int) []session.Limit {
	limits := make([]session.Limit, len(startRates))
	for i, l := range startRates {
		limits[i] = l.Share(callers)
	}
	return limits
}

// slots bound the starts under way in this process. Each caller has a share of
// them, so that a slow Lark does not let one of them stop the others.
type slots struct {
	all chan struct{} // has one value for each start under way

	mu sync.Mutex
	// callers is the number of callers for which shares were cut.
	callers int
	shares  map[string]chan struct{}
}

func newSlots(total int) *slots { return &slots{all: make(chan struct{}, total)} }

// take takes a slot for caller, who is one of a number of callers. It waits for
// slotWait at most. giveBack is nil if there was none.
func (s *slots) take(ctx context.Context, caller string, callers int) (giveBack func()) {
	timer := time.NewTimer(slotWait)
	defer timer.Stop()
	share := s.share(caller, callers)
	for _, c := range []chan struct{}{share, s.all} {
		select {
		case c <- struct{}{}:
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		if c == s.all {
			<-share
		}
		return nil
	}
	return func() { <-s.all; <-share }
}

func (s *slots) share(caller string, callers int) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.callers != callers { // the keys were changed
		s.callers, s.shares = callers, make(map[string]chan struct{})
	}
	if s.shares[caller] == nil {
		s.shares[caller] = make(chan struct{}, session.Share(cap(s.all), callers))
	}
	return s.shares[caller]
}
