package proxy

import (
	"net/http"
	"time"
)

// Both returns the transports that t is made of.
func (t *Transport) Both() [2]*http.Transport { return [2]*http.Transport{t.shared, t.single} }

// TimedOut tells t that a request sent that long after t was made got no answer.
func (t *Transport) TimedOut(sent time.Duration) { t.suspectIdle(sent) }

// Age is how long ago t was made.
func (t *Transport) Age() time.Duration { return time.Since(t.epoch) }
