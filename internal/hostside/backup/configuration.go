package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/staticpod"
)

// totalLimit is for all files of a control plane's configuration: they are held in memory.
const totalLimit = 32 << 20

// What is backed up of a control plane: these directories with everything below them, files that match these patterns, and what the flags
// of its programs name. Other tools keep copies of etcd and more below /etc/kubernetes, too.
var (
	directories = []string{backup.KubernetesDir + "/pki", hostconfig.PatchesDir, hostconfig.APIServerDir}
	patterns    = []string{backup.KubernetesDir + "/manifests/*.yaml", backup.KubernetesDir + "/*.conf"}
	// authorities are the keys that a restore needs if it is not to replace them.
	authorities = []string{backup.KubernetesDir + "/pki/ca.key", backup.KubernetesDir + "/pki/front-proxy-ca.key", backup.KubernetesDir + "/pki/etcd/ca.key"}
)

// configuration is what a control plane has in files.
type configuration struct {
	parts map[string][]byte
	// missing are parts that other control planes have, and what else keeps keys.
	missing []string
	// encryption is the file with the keys that encrypt values in etcd; nil if there is none.
	encryption []byte

	root  string
	bytes int64
}

func (p controlPlane) configuration() (*configuration, error) {
	c := &configuration{parts: map[string][]byte{}, root: p.root}
	if err := c.read(); err != nil {
		return nil, fmt.Errorf("reading the configuration of this control plane: %w", err)
	}
	slices.Sort(c.missing)
	c.missing = slices.Compact(c.missing)
	return c, nil
}

func (c *configuration) read() error {
	for _, dir := range directories {
		if err := c.tree(dir); err != nil {
			return err
		}
	}
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(c.root, pattern))
		if err != nil {
			return err
		}
		for _, file := range found {
			if err := c.file(strings.TrimPrefix(file, c.root)); err != nil {
				return err
			}
		}
	}
	for _, file := range backup.Manifests {
		if err := c.referenced(file); err != nil {
			return err
		}
	}
	for _, key := range authorities {
		if _, has := c.parts[backup.PartOf(key)]; !has {
			c.missing = append(c.missing, backup.PartOf(key))
		}
	}
	return nil
}

// referenced reads the files that the flags of a static pod name.
func (c *configuration) referenced(manifest string) error {
	text, has := c.parts[backup.PartOf(manifest)]
	if !has {
		return nil // what is needed of it is checked with the whole backup
	}
	pod, err := staticpod.Parse(manifest, text)
	if err != nil {
		return err
	}
	for _, r := range backup.References(pod) {
		if err := c.file(r.Path); err != nil {
			return fmt.Errorf("--%s: %w", r.Flag, err)
		}
		if r.Flag != backup.EncryptionFlag {
			continue
		}
		content, has := c.parts[backup.PartOf(r.Path)]
		if !has {
			continue
		}
		_, kms, err := encryption.Reads(content)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Path, err)
		}
		c.encryption = content
		for _, name := range kms {
			c.missing = append(c.missing, "the keys of the KMS provider "+name)
		}
	}
	if staticpod.Arguments(pod)[backup.SigningFlag] != "" {
		c.missing = append(c.missing, "the key that signs the tokens of service accounts (--"+backup.SigningFlag+")")
	}
	return nil
}

// tree reads everything below a directory, also where links lead to. Above are the directories that lead there.
func (c *configuration) tree(dir string, above ...string) error {
	real, err := filepath.EvalSymlinks(filepath.Join(c.root, dir))
	if errors.Is(err, fs.ErrNotExist) || slices.Contains(above, real) {
		return nil // there is none, or a link leads back
	}
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		info, err := os.Stat(filepath.Join(c.root, at))
		switch {
		case err == nil && info.IsDir():
			err = c.tree(at, append(slices.Clone(above), real)...)
		case err == nil || e.Type()&fs.ModeSymlink != 0:
			err = c.file(at)
		case errors.Is(err, fs.ErrNotExist):
			err = nil // it was removed in the meantime
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file reads one file. If there is none, it is missing.
func (c *configuration) file(file string) error {
	part := backup.PartOf(file)
	if _, has := c.parts[part]; has {
		return nil
	}
	path := filepath.Join(c.root, file)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.missing = append(c.missing, part)
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return nil
	}
	if c.bytes += info.Size(); c.bytes > totalLimit {
		return fmt.Errorf("with %s (%d bytes), it has more than %d MiB, which is the limit: remove what does not belong there", file, info.Size(), totalLimit>>20)
	}
	c.parts[part], err = os.ReadFile(path)
	return err
}
