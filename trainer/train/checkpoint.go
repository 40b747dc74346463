package train

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/moby/sys/atomicwriter"

	"fakeart/trainer/net"
)

// A checkpoint file consists of a line with the format version, the checkpoint as gob, and the
// SHA-256 of both. Increase the version when an older program would misread the rest; the version
// comes first, because an older program can read it.
const (
	checkpointFile    = "last.ckpt"
	checkpointMagic   = "fakeart checkpoint "
	checkpointVersion = 1
)

// checkpoint is everything a run needs to continue as if it had not stopped. gob matches fields by
// name, so they must not be renamed.
type checkpoint struct {
	ConfigDigest, DataDigest string
	// Revision lists the source revisions that trained so far, separated by commas.
	Revision string
	// State contains the weights, the optimizer state and the number of training steps.
	State net.State
	// Epoch contains the sums over the current epoch so far.
	Epoch tally
	// Best contains the weights of the epoch with the lowest validation loss.
	Best best
	// Since is the number of epochs since the best one.
	Since int
	// Done reports whether training is complete.
	Done bool
}

// tally is the sums over the training steps of an epoch.
type tally struct {
	Loss    float64 // sum over all images
	Correct int
	Seen    int
	Seconds float64 // of training time
}

// best is the best epoch so far. Its Epoch counts from 1 and is initially 0.
type best struct {
	Epoch          int
	Loss, Accuracy float64
	Weights        net.Weights
}

// save replaces the checkpoint atomically: at any time, either the old or the new one is complete.
func (c *checkpoint) save(dir string) error {
	path := filepath.Join(dir, checkpointFile)
	var data bytes.Buffer
	fmt.Fprintf(&data, "%s%d\n", checkpointMagic, checkpointVersion)
	err := gob.NewEncoder(&data).Encode(c)
	if err == nil {
		sum := sha256.Sum256(data.Bytes())
		data.Write(sum[:])
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = atomicwriter.WriteFile(path, data.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write checkpoint %s: %w", path, err)
	}
	return nil
}

// loadCheckpoint returns the last checkpoint, or nil if the directory has none.
func loadCheckpoint(dir string) (*checkpoint, error) {
	path := filepath.Join(dir, checkpointFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	c, err := parseCheckpoint(data)
	if err != nil {
		return nil, fmt.Errorf("read checkpoint %s: %w", path, err)
	}
	return c, nil
}

var errDamaged = errors.New("the file is damaged\nhint: remove it to train from the start, or restore a copy of it")

func parseCheckpoint(data []byte) (*checkpoint, error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	number, ok := bytes.CutPrefix(line, []byte(checkpointMagic))
	version, err := strconv.Atoi(string(number))
	if !ok || err != nil {
		return nil, errDamaged
	}
	if version > checkpointVersion {
		return nil, fmt.Errorf("version %d is newer than the supported version %d\nhint: resume with the program that started the run",
			version, checkpointVersion)
	}
	end := len(data) - sha256.Size
	if end <= len(line) || sha256.Sum256(data[:end]) != [sha256.Size]byte(data[end:]) {
		return nil, errDamaged
	}
	var c checkpoint
	if err := gob.NewDecoder(bytes.NewReader(data[len(line)+1 : end])).Decode(&c); err != nil {
		return nil, fmt.Errorf("%w\nhint: resume with the program that started the run", err)
	}
	return &c, nil
}
