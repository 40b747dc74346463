//go:build !linux

package main

// scheduleAsBatch does nothing: the policy SCHED_BATCH exists only on Linux.
func scheduleAsBatch() {}
