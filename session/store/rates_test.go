package store_test

import (
	"testing"
	"time"

	"larkside/session"
	"larkside/test/dbtest"
)

// Whatever is stored as counted calls, it keeps nobody from calling for longer
// than the limit's period, and admits no more than the limit.
func TestRatesOfAnything(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		raw := db.SQL(t)
		limits := []session.Limit{{N: 2, Period: time.Minute}}
		for _, windows := range []string{
			"", "null", "[]", "{}", `[{"first":-1,"counts":[-1000]}]`, `[{"first":0,"counts":[-9000000000000000000,-9000000000000000000]}]`,
			`[{"first":9000000000000000000,"counts":[2]}]`, `[{"first":0,"counts":[9000000000000000000,9000000000000000000]}]`,
			`[{"first":300000000,"counts":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,2]}]`,
		} {
			for _, version := range []int64{-1 << 63, 0, 1<<63 - 1} {
				if _, _, err := s.Rates.Take(t.Context(), "x", limits, 1); err != nil {
					t.Fatal(err)
				}
				if _, err := raw.Exec(`UPDATE rates SET windows = $1, version = $2`, windows, version); err != nil {
					t.Fatal(err)
				}
				n, wait, err := s.Rates.Take(t.Context(), "x", limits, 5)
				if err != nil || n != 2 {
					t.Errorf("%s, version %d: admitted %d of 5, wait %s, %v", windows, version, n, wait, err)
				}
				if n, wait, err := s.Rates.Take(t.Context(), "x", limits, 1); err != nil || n != 0 || wait > 2*time.Minute {
					t.Errorf("%s, version %d: then admitted %d, wait %s, %v", windows, version, n, wait, err)
				}
				if _, err := raw.Exec(`DELETE FROM rates`); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// A lease that ends later than any that is given is the trace of a clock that was
// wrong. It keeps nobody out.
func TestLeaseBeyondAll(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *dbtest.DB) {
		s := db.Open(t, nil)
		raw := db.SQL(t)
		put(t, s, grant(alice, "1"))
		if leads, err := s.Elections.Lead(t.Context(), "sweep", time.Minute); err != nil || !leads {
			t.Fatal(leads, err)
		}
		p, _, err := s.Consents.Begin(t.Context(), session.Consent{Key: alice, Flow: session.DeviceFlow, Scopes: "x"}, time.Minute, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		const beyond = 9_000_000_000_000_000_000
		for _, query := range []string{
			`UPDATE sessions SET lease_owner = 'x', lease_until = $1, version = 9223372036854775807`, `UPDATE consents SET lease_owner = 'x', lease_until = $1`,
			`UPDATE leases SET owner = 'x', until = $1`,
		} {
			if _, err := raw.Exec(query, int64(beyond)); err != nil {
				t.Fatal(err)
			}
		}
		claim(t, s, alice, 1<<63-1, time.Minute)
		if _, err := s.Consents.Leases.Claim(t.Context(), p.ID, time.Minute); err != nil {
			t.Error(err)
		}
		if leads, err := s.Elections.Lead(t.Context(), "sweep", time.Minute); err != nil || !leads {
			t.Error(leads, err)
		}
		// A new consent can be stored over any version.
		if row := put(t, s, grant(alice, "2")); row.Version != 1 {
			t.Errorf("version %d", row.Version)
		}
	})
}
