package model

import (
	"errors"
	"flag"
	"maps"
	"testing"
)

var large = flag.Bool("large", false, "search the largest model too: a minute and 2 GB")

// The protocol holds what the package comment says.
func TestProtocol(t *testing.T) {
	models := []Config{
		{Replicas: 2, Rotations: 2, Consents: 1, Revocations: 1},
		{Replicas: 3, Rotations: 2},
	}
	if !testing.Short() {
		models = append(models, Config{Replicas: 3, Rotations: 1, Consents: 1, Revocations: 1})
	}
	if *large {
		models = append(models, Config{Replicas: 3, Rotations: 2, Consents: 1, Revocations: 1})
	}
	for _, c := range models {
		r, err := Explore(c)
		t.Logf("%d replicas, %d rotations, %d consents, %d revocations: %d states, %d steps, %d at rest",
			c.Replicas, c.Rotations, c.Consents, c.Revocations, r.States, r.Steps, r.Resting)
		if err != nil {
			t.Error(err)
		}
	}
}

// The search finds what each rule is for: without the rule there is a
// counter-example, and it is the one that is expected.
func TestMutations(t *testing.T) {
	for _, tc := range []struct {
		mutation Mutation
		want     error
	}{
		{ReplaceAnyVersion, ErrWentBack},
		{ReplaceUnderLease, ErrDropped},
		{ReplaceOnce, ErrDropped},
		{EndMovesVersion, ErrDropped},
		{EndAnyVersion, ErrWronglyEnded},
		{ClaimAnyVersion, ErrResent},
		{ClaimAnyTime, ErrResent},
		{NoJournal, ErrWronglyEnded},
		{LostIsDead, ErrWronglyEnded},
		{RevokeKeepsVersion, ErrCameBack},
		{LeaseForEver, ErrStuck},
	} {
		t.Run(string(tc.mutation), func(t *testing.T) {
			_, err := Explore(Config{Replicas: 2, Rotations: 2, Consents: 1, Revocations: 1, Mutation: tc.mutation})
			if !errors.Is(err, tc.want) {
				t.Fatalf("want %q, got %v", tc.want, err)
			}
			t.Log(err)
		})
	}
}

// What normal merges behaves alike: the search without it gets to the same
// states, merged afterwards, and to no others.
func TestMerging(t *testing.T) {
	c := Config{Replicas: 2, Rotations: 1, Consents: 1, Revocations: 1}
	merged := reach(c)
	c.Unmerged = true
	unmerged := reach(c)
	alike := map[state]bool{}
	for s := range unmerged {
		alike[c.normal(s).sorted()] = true
	}
	t.Logf("%d states, %d merged", len(unmerged), len(merged))
	if !maps.Equal(merged, alike) {
		t.Errorf("%d states when merged on the way, %d when afterwards", len(merged), len(alike))
	}
}

func reach(c Config) map[state]bool {
	seen := map[state]bool{initial(): true}
	for todo := []state{initial()}; len(todo) > 0; {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		c.successors(s, func(_ step, to state) {
			if to = to.sorted(); !seen[to] {
				seen[to] = true
				todo = append(todo, to)
			}
		})
	}
	return seen
}
