package main

import (
	"sync/atomic"
	"time"

	"fakeart/server/oip"
)

// requestCounts are the requests to one model since it was put in use.
type requestCounts struct {
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

// count counts the request, which failed unless err is nil, in the statistics of its model.
func (x *exchange) count(err error) {
	c, now := &x.served.counts, x.m.now()
	c.last.Store(now.UnixMilli())
	if err != nil {
		c.fail.add(now.Sub(x.received))
		return
	}
	var queued time.Duration
	for i := range x.images {
		if j := x.images[i].job; j != nil {
			queued = max(queued, j.Started.Sub(j.Submitted))
		}
	}
	c.queue.add(queued)
	c.success.add(now.Sub(x.received))
}

// statistics returns the counts of the model in the protocol's form.
func (s *served) statistics() oip.ModelStatistics {
	d := oip.ModelStatistics{
		Name: modelName, Version: s.file.Digest, LastInference: s.counts.last.Load(),
		InferenceStats: oip.InferStatistics{Success: s.counts.success.document(), Fail: s.counts.fail.document(), Queue: s.counts.queue.document()},
		BatchStats:     []oip.BatchStatistics{},
	}
	all := &d.InferenceStats
	for _, b := range s.model.Batches() {
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
