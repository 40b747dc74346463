//go:build !linux

package main

// scheduleAsBatch is for Linux's scheduler.
func scheduleAsBatch() {}
