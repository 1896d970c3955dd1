//go:build !linux

package main

import (
	"os/exec"
	"time"
)

// The figures are made on Linux; elsewhere it is enough that this compiles.

func dieWithParent(*exec.Cmd) {}

func precise() {}

func sleepUntil(t time.Time) { time.Sleep(time.Until(t)) }
