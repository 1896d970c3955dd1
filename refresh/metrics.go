package refresh

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Class says what came of one run of the protocol. The strings are the label
// of larkside_refreshes_total.
type Class string

const (
	// Renewed: a new pair is stored.
	Renewed Class = "renewed"
	// WonByOther: another replica had refreshed it already.
	WonByOther Class = "won_by_other"
	// Superseded: the user consented anew meanwhile.
	Superseded Class = "superseded"
	// Transient: Lark failed for the moment; the session is kept.
	Transient Class = "transient"
	// Rested: the circuit is open or the app is refused; Lark was not asked.
	Rested Class = "rested"
	// Contended: others held the lease all the time.
	Contended Class = "contended"
	// StoreFailed: the database failed; the session is kept.
	StoreFailed Class = "store_failed"
	// Misconfigured: Lark refuses the app; the session is kept.
	Misconfigured Class = "misconfigured"
	// Refused: a token fresh from Lark was refused by Lark.
	Refused Class = "refused"
	// RotationLost: the refresh token was spent by an attempt whose answer was
	// never stored. The session is lost.
	RotationLost Class = "rotation_lost"
	// Reused: the refresh token was spent or revoked by someone else. The
	// session is lost.
	Reused Class = "reused"
	// Dead: the refresh token is too old or malformed. The session is over.
	Dead Class = "dead"
	// UserDisabled: the user is gone or may not use the app.
	UserDisabled Class = "user_disabled"
	// NotRenewable: the session had ended before.
	NotRenewable Class = "not_renewable"
	// Unconfigured: the session belongs to an app that is not configured.
	Unconfigured Class = "unconfigured"
)

type metrics struct {
	refreshes metric.Int64Counter
}

func newMetrics(apps map[string]*app) (metrics, error) {
	meter := otel.Meter("larkside/refresh")
	refreshes, err1 := meter.Int64Counter("larkside.refreshes",
		metric.WithDescription("Runs of the refresh protocol by what came of them."))
	_, err2 := meter.Int64ObservableGauge("larkside.app.refused",
		metric.WithDescription("1 while Lark refuses the app itself."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			for id, a := range apps {
				refused := int64(0)
				if a.verdict() != nil {
					refused = 1
				}
				o.Observe(refused, metric.WithAttributes(attribute.String("app_id", id)))
			}
			return nil
		}))
	return metrics{refreshes}, errors.Join(err1, err2)
}

func (m metrics) count(ctx context.Context, c Class) {
	m.refreshes.Add(ctx, 1, metric.WithAttributes(attribute.String("class", string(c))))
}
