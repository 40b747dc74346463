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

	"github.com/moby/sys/atomicwriter"

	"fakeart/trainer/net"
)

// checkpointVersion grows when an older program would misread a checkpoint.
const checkpointVersion = 1

// checkpoint is all that a run needs to go on as if it had not stopped.
type checkpoint struct {
	Version                  int
	ConfigDigest, DataDigest string
	// State has the weights, the optimizer's vectors and the steps made.
	State net.State
	// Epoch has what the current epoch has summed up so far.
	Epoch tally
	// Best has the weights of the epoch with the lowest validation loss.
	Best best
	// Since counts the epochs since the best one.
	Since int
	// Done says that nothing is left to learn.
	Done bool
}

// tally sums up an epoch's steps.
type tally struct {
	Loss    float64 // sum over pictures
	Correct int
	Seen    int
	Seconds float64 // spent in training
}

// best is the best epoch so far; its Epoch counts from 1 and is 0 at first.
type best struct {
	Epoch          int
	Loss, Accuracy float64
	Weights        net.Weights
}

const checkpointFile = "last.ckpt"

// save writes the checkpoint beside the older one and then puts it in its
// place: whatever happens, one of the two is there and whole.
func (c *checkpoint) save(dir string) error {
	c.Version = checkpointVersion
	var data bytes.Buffer
	err := gob.NewEncoder(&data).Encode(c)
	if err == nil {
		sum := sha256.Sum256(data.Bytes())
		data.Write(sum[:])
		err = os.MkdirAll(dir, 0o755)
	}
	path := filepath.Join(dir, checkpointFile)
	if err == nil {
		err = atomicwriter.WriteFile(path, data.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write checkpoint %s: %w; the one before it is still there: make room and go on with run.resume=true", path, err)
	}
	return nil
}

// loadCheckpoint reads the last checkpoint, or gives nil if there is none.
func loadCheckpoint(dir string) (*checkpoint, error) {
	path := filepath.Join(dir, checkpointFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	end := len(data) - sha256.Size
	if end < 0 || sha256.Sum256(data[:end]) != [sha256.Size]byte(data[end:]) {
		return nil, fmt.Errorf("read checkpoint %s: the file is damaged; remove it to train from the start", path)
	}
	var c checkpoint
	if err := gob.NewDecoder(bytes.NewReader(data[:end])).Decode(&c); err != nil {
		return nil, fmt.Errorf("read checkpoint %s: %w; remove it to train from the start", path, err)
	}
	if c.Version != checkpointVersion {
		return nil, fmt.Errorf("read checkpoint %s: version %d, this program writes %d; go on with the program that began it", path, c.Version, checkpointVersion)
	}
	return &c, nil
}
