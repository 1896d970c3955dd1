package admin

import (
	"maps"
	"slices"
)

// Routes returns the methods of every path that c serves.
func Routes(c Config) map[string][]string {
	all := map[string][]string{}
	for path, m := range (&admin{Config: c}).routes() {
		all[path] = slices.Sorted(maps.Keys(m))
	}
	return all
}
