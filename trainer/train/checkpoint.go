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

// A checkpoint file is a line that tells its version, the checkpoint as gob, and
// the SHA-256 of both. The version grows when an older program would misread the
// rest; it stands before what only the right program can read.
const (
	checkpointFile    = "last.ckpt"
	checkpointMagic   = "fakeart checkpoint "
	checkpointVersion = 1
)

// checkpoint is all that a run needs to go on as if it had not stopped.
type checkpoint struct {
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

// save writes the checkpoint beside the older one and then puts it in its
// place: whatever happens, one of the two is there and whole.
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
	c, err := parseCheckpoint(data)
	if err != nil {
		return nil, fmt.Errorf("read checkpoint %s: %w", path, err)
	}
	return c, nil
}

var errDamaged = errors.New("the file is damaged; remove it to train from the start, or put a copy of it in its place")

func parseCheckpoint(data []byte) (*checkpoint, error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	number, ok := bytes.CutPrefix(line, []byte(checkpointMagic))
	version, err := strconv.Atoi(string(number))
	if !ok || err != nil {
		return nil, errDamaged
	}
	if version > checkpointVersion {
		return nil, fmt.Errorf("version %d is newer than this program reads (%d); go on with the program that began the run",
			version, checkpointVersion)
	}
	end := len(data) - sha256.Size
	if end <= len(line) || sha256.Sum256(data[:end]) != [sha256.Size]byte(data[end:]) {
		return nil, errDamaged
	}
	var c checkpoint
	if err := gob.NewDecoder(bytes.NewReader(data[len(line)+1 : end])).Decode(&c); err != nil {
		return nil, fmt.Errorf("%w; go on with the program that began the run", err)
	}
	return &c, nil
}
