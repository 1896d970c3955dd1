//go:build race

package refresh

// raceDetector: each step takes ten times as long.
const raceDetector = true
