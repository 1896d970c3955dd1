package console

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"larkside/session"
)

// moment is an instant as a page shows it: in words, with the exact time beside.
// The zero moment is shown as a dash.
type moment struct {
	// ISO is for the datetime attribute, Exact for the title.
	ISO, Exact, Words string
}

func (l lang) moment(t, now time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	t = t.UTC()
	return moment{t.Format(time.RFC3339), t.Format("2006-01-02 15:04:05 UTC"), l.relative(t.Sub(now))}
}

// relative says how far away something is; negative is in the past.
func (l lang) relative(d time.Duration) string {
	away := d.Abs()
	switch {
	case away < 5*time.Second && d > 0:
		return l.text("time.soon")
	case away < 5*time.Second:
		return l.text("time.now")
	}
	which := "time.in"
	if d < 0 {
		which = "time.ago"
	}
	return l.text(which, l.duration(away))
}

// duration names the largest unit that fits.
func (l lang) duration(d time.Duration) string {
	n, unit := int(d/time.Second), "second"
	switch {
	case d >= 48*time.Hour:
		n, unit = int(d/(24*time.Hour)), "day"
	case d >= 2*time.Hour:
		n, unit = int(d/time.Hour), "hour"
	case d >= 2*time.Minute:
		n, unit = int(d/time.Minute), "minute"
	}
	return l.count(n, unit)
}

// period names d by the largest unit that divides it: 1 minute, not 60 seconds.
func (l lang) period(d time.Duration) string {
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		if d >= u.unit && d%u.unit == 0 {
			return l.count(int(d/u.unit), u.name)
		}
	}
	return l.count(int(d/time.Second), "second")
}

func (l lang) count(n int, unit string) string {
	if n == 1 {
		return l.text("one." + unit)
	}
	return l.text("many."+unit, n)
}

// why says in words why s is as it is and what happens next. appRefused: Lark
// refuses the app, so that nothing is renewed.
func (l lang) why(s *session.Session, now time.Time, appRefused bool) string {
	if s.State != session.Active {
		if text, ok := l.lookup("why." + string(s.Reason)); ok {
			return text
		}
		return l.text("why.other", visible(string(s.Reason)))
	}
	works := now.Before(s.ExpiresAt)
	switch renewable := !s.RefreshExpiresAt.IsZero(); {
	case appRefused && renewable && now.Before(s.RefreshExpiresAt) && (s.Failures > 0 || !works):
		return l.text("why.app_refused")
	case s.Failures > 0 && renewable && now.Before(s.RetryAt):
		return l.text("why.failing", s.Failures, l.relative(s.RetryAt.Sub(now)))
	case s.Failures > 0 && renewable:
		return l.text("why.failed", s.Failures)
	case !renewable && works:
		return l.text("why.once", l.relative(s.ExpiresAt.Sub(now)))
	case !renewable:
		return l.text("why.over")
	case !now.Before(s.RefreshExpiresAt):
		return l.text("why.stale")
	case !works:
		return l.text("why.idle")
	}
	return l.text("why.good")
}

// brief returns the first sentence of a text.
func brief(text string) string {
	for _, end := range []string{". ", "。"} {
		if first, rest, ok := strings.Cut(text, end); ok && rest != "" {
			return first + strings.TrimSpace(end)
		}
	}
	return text
}

// reason says in words why a consent or a session ended, or was not started.
func (l lang) reason(word string) string {
	if text, ok := l.lookup("reason." + word); ok {
		return text
	}
	if text, ok := l.lookup("why." + word); ok {
		return brief(text)
	}
	return visible(word)
}

// detail says what the audit trail has beside an entry. What Lark or a program says
// stays as it is.
func (l lang) detail(text string) string {
	if rest, ok := strings.CutPrefix(text, "scopes: "); ok {
		return l.text("detail.scopes", visible(rest))
	}
	rest, ok := strings.CutPrefix(text, "from ")
	if !ok {
		return l.reason(text)
	}
	from, why, failed := strings.Cut(rest, ": ")
	if from == "the Unix socket" {
		from = l.text("detail.socket")
	}
	if from = l.text("detail.from", visible(from)); failed {
		return from + l.text("detail.colon") + visible(why)
	}
	return from
}

// breaks returns the parts of a name of a scope, between which a line may end.
func breaks(scope string) (parts []string) {
	for {
		i := strings.IndexAny(scope, ":.")
		if i < 0 {
			return append(parts, scope)
		}
		parts, scope = append(parts, scope[:i+1]), scope[i+1:]
	}
}

// maxVisible is how many characters of a text are shown in a list.
const maxVisible = 200

// visible makes characters that hide or turn text around harmless: controls,
// marks of direction and what has no width are shown by their number. Whatever
// else it is, it stays; html/template escapes it.
func visible(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if n++; n > maxVisible {
			b.WriteString("…")
			break
		}
		switch {
		// The zero width joiners are part of names and emoji.
		case r == '\u200c' || r == '\u200d':
			b.WriteRune(r)
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' || r == '\u115f' || r == '\u1160' || r == '\u3164':
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
