package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/skel"
)

// record is the file that keeps the delegate's configuration from ADD to DEL.
type record string

// record's folder is one per network. The CNI library has checked that neither name nor container ID
// can leave it.
func (c *config) record(args *skel.CmdArgs) record { return c.recordOf(args.ContainerID, args.IfName) }

func (c *config) recordOf(containerID, ifName string) record {
	return record(filepath.Join(c.DataDir, c.Name, containerID+"-"+ifName))
}

func (r record) save(raw []byte) error {
	dir := filepath.Dir(string(r))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep the delegate's configuration: %w", err)
	}
	// By rename: a half-written record would make every later DEL of the container fail.
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("keep the delegate's configuration: %w", err)
	}
	_, err = tmp.Write(raw)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), string(r))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep the delegate's configuration: %w", err), os.Remove(tmp.Name()))
	}
	return nil
}

// errDamaged is in load's error for a record that is not what was saved: a power cut can leave an empty file.
var errDamaged = errors.New("the file is damaged")

func (r record) load() (delegate, error) {
	raw, err := os.ReadFile(string(r))
	if err != nil {
		return nil, fmt.Errorf("read the delegate's configuration: %w", err)
	}
	var d delegate
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fmt.Errorf("read the delegate's configuration in %s: %w: %w", r, errDamaged, err)
	}
	if _, ok := d["type"].(string); !ok {
		return nil, fmt.Errorf("read the delegate's configuration in %s: %w: it names no plugin", r, errDamaged)
	}
	return d, nil
}

func (r record) remove() error {
	if err := os.Remove(string(r)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the delegate's configuration: %w", err)
	}
	return nil
}

// prune removes the records of attachments that the runtime does not know any more.
func (c *config) prune() error {
	valid := map[record]bool{}
	for _, a := range c.ValidAttachments {
		valid[c.recordOf(a.ContainerID, a.IfName)] = true
	}
	dir := filepath.Join(c.DataDir, c.Name)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list the kept configurations: %w", err)
	}
	var failures []error
	for _, e := range entries {
		if r := record(filepath.Join(dir, e.Name())); !valid[r] {
			failures = append(failures, r.remove())
		}
	}
	return errors.Join(failures...)
}
