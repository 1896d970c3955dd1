package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// errNobody: the person who was to answer is gone.
var errNobody = errors.New("nobody answers: standard input has ended")

// person is whoever sits at the terminal.
type person struct {
	out   io.Writer
	lines chan string // closed at the end of the input
}

// newPerson reads in from now on, since a read can't be given up when the
// context ends.
func newPerson(in io.Reader, out io.Writer) *person {
	p := &person{out: out, lines: make(chan string)}
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(in); lines.Scan(); {
			p.lines <- lines.Text()
		}
	}()
	return p
}

// yes asks until it is answered.
func (p *person) yes(ctx context.Context, question string) (bool, error) {
	for {
		fmt.Fprintf(p.out, "? %s [y/n] ", question)
		select {
		case line, ok := <-p.lines:
			if !ok {
				fmt.Fprintln(p.out)
				return false, errNobody
			}
			switch strings.ToLower(strings.TrimSpace(line)) {
			case "y", "yes":
				return true, nil
			case "n", "no":
				return false, nil
			}
		case <-ctx.Done():
			fmt.Fprintln(p.out)
			return false, context.Cause(ctx)
		}
	}
}
