package models

import (
	"sync/atomic"
	"time"

	"fakeart/server/oip"
)

// Counts are the requests to one model since it was put in use. It is safe for concurrent use.
type Counts struct {
	last                 atomic.Int64 // when the last request finished, in Unix milliseconds; 0 before the first one
	success, fail, queue durationCount
}

// durationCount is a number of durations and their sum.
type durationCount struct{ count, total atomic.Int64 }

func (d *durationCount) add(one time.Duration) {
	d.count.Add(1)
	d.total.Add(int64(max(one, 0)))
}

func (d *durationCount) document() oip.StatisticDuration {
	return oip.StatisticDuration{Count: d.count.Load(), Nanoseconds: d.total.Load()}
}

// Succeeded counts a request that succeeded at a time, with its duration and how long its images waited for a session.
func (c *Counts) Succeeded(at time.Time, took, queued time.Duration) {
	c.last.Store(at.UnixMilli())
	c.queue.add(queued)
	c.success.add(took)
}

// Failed counts a request that failed.
func (c *Counts) Failed(at time.Time, took time.Duration) {
	c.last.Store(at.UnixMilli())
	c.fail.add(took)
}

// Statistics returns the counts of the model in the form of the Open Inference Protocol.
func (m *Model) Statistics() oip.ModelStatistics {
	d := oip.ModelStatistics{
		Name: m.Name, Version: m.File.Digest, LastInference: m.Counts.last.Load(),
		InferenceStats: oip.InferStatistics{Success: m.Counts.success.document(), Fail: m.Counts.fail.document(), Queue: m.Counts.queue.document()},
		BatchStats:     []oip.BatchStatistics{},
	}
	all := &d.InferenceStats
	for _, b := range m.engine.Batches() {
		one := oip.BatchStatistics{
			BatchSize:     b.Size,
			ComputeInput:  oip.StatisticDuration{Count: b.Count, Nanoseconds: int64(b.Input)},
			ComputeInfer:  oip.StatisticDuration{Count: b.Count, Nanoseconds: int64(b.Inference)},
			ComputeOutput: oip.StatisticDuration{Count: b.Count, Nanoseconds: int64(b.Output)},
		}
		d.BatchStats = append(d.BatchStats, one)
		d.InferenceCount += int64(b.Size) * b.Count
		d.ExecutionCount += b.Count
		all.ComputeInput.Add(one.ComputeInput)
		all.ComputeInfer.Add(one.ComputeInfer)
		all.ComputeOutput.Add(one.ComputeOutput)
	}
	return d
}
