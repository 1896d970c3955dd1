package lark

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

const (
	// maxParts is the most frames of one event. maxUnfinished is the most events
	// of which parts are missing at the same time.
	maxParts      = 64
	maxUnfinished = 64
	// partsPatience is how long the rest of an event is waited for.
	// Source: [S] the SDK's.
	partsPatience = 5 * time.Second
)

// eventParts joins events that come in several frames. The zero value is ready
// to use, by one goroutine.
type eventParts struct {
	unfinished map[string]*unfinishedEvent // by message id
	size       int                         // bytes of all parts
}

type unfinishedEvent struct {
	began   time.Time
	parts   [][]byte // nil: has not come yet
	missing int
	size    int
}

var errParts = errors.New("the parts of an event from Lark don't belong together")

// add stores payload as part seq of sum. It returns the whole event if no part
// is missing, else nil. It returns an error if a limit is broken or the parts
// contradict each other. sum is checked before anything is allocated for it.
func (p *eventParts) add(id string, sum, seq int, payload []byte, now time.Time) ([]byte, error) {
	if sum <= 1 {
		return payload, nil
	}
	p.forget(now)
	e := p.unfinished[id]
	switch {
	case sum > maxParts:
		return nil, fmt.Errorf("an event from Lark has %d parts, over %d", sum, maxParts)
	case seq < 0 || seq >= sum, id == "", len(id) > maxEventID, e != nil && len(e.parts) != sum:
		return nil, errParts
	case e == nil && len(p.unfinished) >= maxUnfinished:
		return nil, fmt.Errorf("parts of more than %d events are waiting for the rest", maxUnfinished)
	case p.size+len(payload) > maxMessage:
		return nil, fmt.Errorf("the parts of events that are waiting for the rest are over %d bytes", maxMessage)
	}
	if e == nil {
		if p.unfinished == nil {
			p.unfinished = make(map[string]*unfinishedEvent)
		}
		e = &unfinishedEvent{began: now, parts: make([][]byte, sum), missing: sum}
		p.unfinished[id] = e
	}
	if e.parts[seq] != nil {
		return nil, nil // it came twice
	}
	if payload == nil {
		payload = []byte{}
	}
	e.parts[seq] = payload
	e.missing--
	e.size += len(payload)
	p.size += len(payload)
	if e.missing > 0 {
		return nil, nil
	}
	p.remove(id)
	return bytes.Join(e.parts, nil), nil
}

// forget removes events that are unfinished for longer than partsPatience. Lark
// sends them again.
func (p *eventParts) forget(now time.Time) {
	for id, e := range p.unfinished {
		if now.Sub(e.began) > partsPatience {
			p.remove(id)
		}
	}
}

func (p *eventParts) remove(id string) {
	p.size -= p.unfinished[id].size
	delete(p.unfinished, id)
}
