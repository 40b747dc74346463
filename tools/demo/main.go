// Command demo runs the built programs end to end, as a user would. It prepares a synthetic
// dataset, trains and evaluates a model, starts the server, sends it one REAL and one FAKE image
// of the test split, prints the predictions and stops the server. With -keep, it prints the URL
// of the server's page and leaves the server running until Ctrl-C.
//
// It exits with an error if a step fails or a prediction is wrong.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"fakeart/internal/imaging"
	"fakeart/internal/process"
	"fakeart/trainer/dataset"
)

func main() {
	var d demo
	flag.StringVar(&d.trainer, "trainer", "bin/trainer", "path of the trainer")
	flag.StringVar(&d.server, "server", "bin/server", "path of the server")
	flag.StringVar(&d.dir, "dir", "runs/demo", "folder for the dataset, the run and the images; overwrites those of an earlier demo")
	flag.BoolVar(&d.keep, "keep", false, "leave the server running until Ctrl-C")
	flag.Parse()
	d.out = os.Stdout

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := d.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// demo holds the settings of the demo.
type demo struct {
	trainer, server string // paths of the programs
	dir             string
	keep            bool
	out             io.Writer
}

func (d *demo) run(ctx context.Context) error {
	data, run := filepath.Join(d.dir, "data"), filepath.Join(d.dir, "run")
	model := filepath.Join(run, "model.onnx")
	if err := os.RemoveAll(run); err != nil {
		return err
	}
	steps := [][]string{
		{d.trainer, "data", "prepare", "dataset=synthetic", "dataset.dir=" + data},
		{d.trainer, "train", "experiment=smoke", "dataset=synthetic", "dataset.dir=" + data, "run.dir=" + run},
		{d.trainer, "evaluate", "--model", model, "--data", data, "--split", "test"},
	}
	for _, args := range steps {
		cmd := process.Command(ctx, d.out, args...)
		cmd.Stdout, cmd.Stderr = d.out, d.out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
	}
	return d.serve(ctx, model, data)
}

// serve starts the server, classifies an image of each class and stops the server.
func (d *demo) serve(ctx context.Context, model, data string) (err error) {
	test, manifest, err := dataset.Load(data, "test")
	if err != nil {
		return err
	}

	cmd := process.Command(ctx, d.out, d.server, "--model", model, "--addr", d.address(ctx), "--log-path", filepath.Join(d.dir, "predictions.db"), "--log-format=text")
	server, err := process.Start(ctx, cmd, d.out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	for label, class := range manifest.Classes {
		i := slices.Index(test.Labels, uint16(label))
		if i < 0 {
			return fmt.Errorf("%s: the test split has no images of class %s", data, class)
		}
		path := filepath.Join(d.dir, class+".png")
		if err := os.WriteFile(path, imaging.EncodePNG(imaging.ToImage(test.Image(i), test.Side, imaging.Channels)), 0o644); err != nil {
			return err
		}
		if err := d.classify(ctx, server.URL, path, class); err != nil {
			return err
		}
	}
	if !d.keep {
		return nil
	}
	fmt.Fprintf(d.out, "\nOpen %s/ in a browser. Press Ctrl-C to stop the server.\n", server.URL)
	select {
	case <-ctx.Done():
		return nil
	case <-server.Done():
		return errors.New("the server exited unexpectedly")
	}
}

// defaultAddress is the server's default address.
const defaultAddress = "127.0.0.1:8080"

// address returns the address for the server: with keep, the default address if it's free,
// otherwise any free port.
func (d *demo) address(ctx context.Context) string {
	if d.keep {
		if l, err := new(net.ListenConfig).Listen(ctx, "tcp", defaultAddress); err == nil {
			_ = l.Close()
			return defaultAddress
		}
	}
	return "127.0.0.1:0"
}

// classify sends the image in a form, as a browser would, prints the prediction and returns an
// error if its class isn't want.
func (d *demo) classify(ctx context.Context, url, path, want string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("data", filepath.Base(path))
	if err != nil {
		return err
	}
	if _, err := part.Write(data); err != nil {
		return err
	}
	if err := form.Close(); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\n$ curl -F data=@%s %s/predict\n", path, url)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/predict", &body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", form.FormDataContentType())
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read response of %s: %w", url, err)
	}
	fmt.Fprintf(d.out, "%s\n", bytes.TrimSpace(text))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("POST %s/predict: status %s", url, response.Status)
	}
	var prediction struct {
		Label       string  `json:"label"`
		Probability float64 `json:"probability"`
	}
	if err := json.Unmarshal(text, &prediction); err != nil {
		return fmt.Errorf("parse prediction: %w", err)
	}
	if prediction.Label != want {
		return fmt.Errorf("%s is %s, but the prediction is %q", path, want, prediction.Label)
	}
	fmt.Fprintf(d.out, "→ %s: %s is correct (probability of FAKE %.3f)\n", path, prediction.Label, prediction.Probability)
	return nil
}
