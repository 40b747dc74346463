package main

import (
	"errors"
	"io"

	"github.com/gofiber/fiber/v2"

	"fakeart/server/benchmark"
	"fakeart/server/telemetry"
)

// benchmarkCommand is `server benchmark`.
type benchmarkCommand struct {
	benchmark.Options `embed:""`
}

func (b benchmarkCommand) Run(c *Config, std streams) error {
	if c.model() == "" {
		return usageError{errNoModelFlag}
	}
	ctx, stop := signalContext()
	defer stop()
	text, err := benchmark.Run(ctx, b.Options, benchmark.Server{Model: c.model(), Workers: c.Workers, MaxBatch: c.MaxBatch, Queue: c.Queue}, std.err)
	_, printErr := io.WriteString(std.out, text) // also if it can't be written to the file
	return errors.Join(err, printErr)
}

// constantCommand serves the baseline (h): the same HTTP server, with a handler that reads the
// body and returns a constant.
type constantCommand struct{}

func (constantCommand) Run(c *Config, std streams) error {
	ctx, stop := signalContext()
	defer stop()
	scheduleAsBatch()
	m := NewMain(*c, newLogger(c, std.err))
	m.tracing = telemetry.NewTracing(ctx, versionText(), m.log)
	if err := m.prepare(); err != nil {
		return err
	}
	err := m.listen(ctx, c.Addr, "--addr", func() application {
		app := m.front.NewApp()
		app.Post("/predict", func(c *fiber.Ctx) error {
			x := m.newExchange(c)
			defer x.free()
			if err := x.readBody(); err != nil {
				return err
			}
			c.Response().Header.SetContentType(fiber.MIMEApplicationJSON)
			return c.SendString(`{"id":"01932d5e-8c6b-7f3a-9b1e-0c2d4e6f8a1b","label":"REAL","isAI":false,"probability":0.0313582349850234,"model":"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}` + "\n")
		})
		m.front.Serve(app)
		return app
	})
	if err != nil {
		return err
	}
	m.endpoints[0].serve()
	m.log.Info("listening on " + m.URL())
	return errors.Join(m.Wait(ctx), m.Close())
}
