//go:build race

package process

// RaceEnabled is whether the test and the binary have the race detector.
const RaceEnabled = true
