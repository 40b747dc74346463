package predlog

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// victimVariable is an environment variable with a database file. If it is set, the test binary
// logs to that file until it is killed.
const victimVariable = "FAKEART_TEST_LOG_VICTIM"

// victim appends records to a durable log, and prints the ID of each when Append has returned.
func victim(path string) {
	ctx := context.Background()
	s, err := OpenSQLite(ctx, SQLiteOptions{Path: path})
	if err != nil {
		panic(err)
	}
	l := New(s, Options{Durable: true})
	for w := range 16 {
		go func() {
			for i := 0; ; i++ {
				r := newRecord(i)
				if i%10 == w {
					r.Image = []byte(fmt.Sprint(w, i))
				}
				if err := l.Append(ctx, r); err != nil {
					panic(err)
				}
				fmt.Println(r.row().ID)
			}
		}()
	}
	select {}
}

func TestDurableLog_SurvivesKill(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "predictions.db")
	printed := map[string]bool{}
	for round := range 8 {
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), victimVariable+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Kill the process at a random moment after that many acknowledged records.
		enough := len(printed) + 1 + rand.IntN(3000)
		killed := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			printed[lines.Text()] = true
			if len(printed) >= enough && !killed {
				killed = true
				time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
				if err := cmd.Process.Kill(); err != nil { // SIGKILL
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed
		if !killed {
			t.Fatalf("round %d: the process exited before it was killed", round)
		}
		s := openSQLite(t, SQLiteOptions{Path: path})
		rows := allRowsAtOnce(t, s)
		mustClose(t, s)
		inLog := map[string]bool{}
		for _, r := range rows {
			inLog[r.ID] = true
		}
		for id := range printed {
			if !inLog[id] {
				t.Fatalf("round %d: %s was acknowledged and is not among the %d records in the log", round, id, len(rows))
			}
		}
	}
	if got := query(t, path, "PRAGMA integrity_check"); got != "ok" {
		t.Error(got)
	}
	if moved := aside(t, path); len(moved) != 0 {
		t.Errorf("files %v were moved aside, want none", moved)
	}
	t.Logf("%d records", len(printed))
}
