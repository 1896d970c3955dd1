//go:build !race

package process

const RaceEnabled = false
