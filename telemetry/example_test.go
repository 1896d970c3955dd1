package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"larkside/telemetry"
)

// timeless writes lines without their time, which no example knows beforehand.
type timeless struct{ slog.Handler }

func (h timeless) Handle(ctx context.Context, r slog.Record) error {
	r.Time = time.Time{}
	return h.Handler.Handle(ctx, r)
}

// A line of the log has the id that the answer to the same request has, and the
// user as the operator wants to see them.
func ExampleNewHandler() {
	handler, err := telemetry.NewHandler(os.Stdout, telemetry.FormatText, slog.LevelInfo)
	if err != nil {
		fmt.Println(err)
		return
	}
	users, err := telemetry.NewUsers(telemetry.HashUsers, []byte("the same key on all replicas"))
	if err != nil {
		fmt.Println(err)
		return
	}
	log := slog.New(timeless{handler})
	ctx := context.WithValue(context.Background(), telemetry.RequestIDKey{}, "5F3KQ7ZTMN2WXBAD")
	log.WarnContext(ctx, "can't send a card", "app_id", "cli_a1b2c3", users.Log("ou_alice"), "error", errors.New("code 230013"))
	// Output:
	// level=WARN msg="can't send a card" app_id=cli_a1b2c3 user=2c1f9315fcf16e87 error="code 230013" request_id=5F3KQ7ZTMN2WXBAD
}
