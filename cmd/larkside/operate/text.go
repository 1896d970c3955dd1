package operate

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// visible removes what could steer a terminal from text that others wrote.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
}

// relative shows a time as people think of it: "in 2h", "3d ago", or "-".
func relative(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	if d := t.Sub(now); d > 0 {
		return "in " + roughly(d)
	}
	return roughly(now.Sub(*t)) + " ago"
}

func roughly(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		letter string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= 2*unit.length {
			return fmt.Sprintf("%d%s", d/unit.length, unit.letter)
		}
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
