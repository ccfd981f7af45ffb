// Package watch is the host's part of the unit that observes a cluster from its control planes, and repairs it: the key of the unit, who is admitted to
// a host and for what, and what the unit that runs on a control plane reports.
package watch

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Identity is how others know a host, and the unit on it.
type Identity struct {
	// HostKeys are the public keys of its sshd, and Key that of its unit; empty if it has none.
	HostKeys []string `json:"hostKeys"`
	Key      string   `json:"key,omitempty"`
}

// ReadIdentity reads the identity of a host. Others trust what it returns, so its own key must be confirmed.
var ReadIdentity = host.Define("watch.identity", func(context.Context, struct{}) (Identity, error) {
	return identity(""), nil
}, host.Reads, host.Secret)

// MakeKey makes the key of a control plane's unit, unless it has one, and returns the public key.
var MakeKey = host.Define("watch.make-key", func(context.Context, struct{}) (Identity, error) {
	if err := makeKey(""); err != nil {
		return Identity{}, err
	}
	return identity(""), nil
}, host.Secret)

func makeKey(root string) error {
	if _, err := publicKey(root); err == nil {
		return nil
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "quorate watch")
	if err != nil {
		return err
	}
	return write(root, facts.WatchKeyFile, pem.EncodeToMemory(block))
}

// write writes a file that only root can read.
func write(root, path string, content []byte) error {
	path = filepath.Join(root, path)
	dir := filepath.Dir(path)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil { // it may have been there
		return err
	}
	return durable.WriteFile(path, content, 0o600)
}

func publicKey(root string) (string, error) {
	data, err := os.ReadFile(filepath.Join(root, facts.WatchKeyFile))
	if err != nil {
		return "", err
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return "", err
	}
	return oneLine(signer.PublicKey()), nil
}

// oneLine is a public key without a comment.
func oneLine(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// identity reads the keys. What is not there, or cannot be read, is left out: whoever relies on it misses it.
func identity(root string) Identity {
	out := Identity{}
	names, _ := filepath.Glob(filepath.Join(root, "/etc/ssh/ssh_host_*_key.pub"))
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if key, _, _, _, err := ssh.ParseAuthorizedKey(data); err == nil {
			out.HostKeys = append(out.HostKeys, oneLine(key))
		}
	}
	slices.Sort(out.HostKeys)
	out.Key, _ = publicKey(root)
	return out
}

// Config is what the unit of a control plane needs.
type Config struct {
	facts.WatchNote
	// Host is the control plane's name, and Spec the spec of its cluster as YAML.
	Host string `json:"host"`
	Spec string `json:"spec"`
	// Files are the contents of the files that settings of the spec name, by path.
	Files map[string]string `json:"files,omitempty"`
	// ExporterNames are what the certificate is valid for with which the control plane serves metrics; none if it serves none.
	ExporterNames []string `json:"exporterNames,omitempty"`
	// At are the addresses of the hosts, as host:port, by name.
	At map[string]string `json:"at"`
}

// Configure gives the unit of a control plane its configuration. A unit that runs notices it. If the control plane serves metrics, it gets the
// certificates for that within moments.
var Configure = host.Define("watch.configure", func(ctx context.Context, in Config) (struct{}, error) {
	if err := in.write(""); err != nil || len(in.ExporterNames) == 0 {
		return struct{}{}, err
	}
	// The approver restarts the unit that serves metrics, and systemd mounts the directory then. The unit that observes may notice its configuration later.
	if err := (Snapshots{}).Prepare(); err != nil {
		return struct{}{}, err
	}
	// A run that is in progress may have read the configuration before, and starting the service would not start another one.
	return struct{}{}, system.Systemctl(ctx, "restart", "--no-block", hostconfig.ApproverService)
}, host.Secret)

func (c Config) write(root string) error {
	var known strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.HostKeys)) {
		for _, line := range c.HostKeys[name] {
			key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
			if err != nil {
				return fmt.Errorf("the host key of %s: %w", name, err)
			}
			known.WriteString(knownhosts.Line([]string{knownhosts.Normalize(c.At[name])}, key) + "\n")
		}
	}
	if err := write(root, facts.WatchKnownHostsFile, []byte(known.String())); err != nil {
		return err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return write(root, facts.WatchConfigFile, text)
}

// ReadConfig reads the configuration of the unit on this host. The error is fs.ErrNotExist if there is none.
func ReadConfig() (Config, error) { return readConfig("") }

func readConfig(root string) (c Config, err error) {
	err = readJSON(root, facts.WatchConfigFile, &c)
	return c, err
}

func readJSON(root, path string, into any) error {
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("reading %s: %w; `quorate apply` writes it again", path, err)
	}
	return nil
}

// Report notes what the unit on this host does.
func Report(r facts.WatchReport) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(facts.WatchReportFile), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(facts.WatchReportFile, text, 0o600) // in memory, and gone when the host restarts
}

// Read is what a host has of the unit. root is empty for the host itself, or a directory in tests.
func Read(root string, now time.Time) *facts.Watch {
	id := identity(root)
	out := &facts.Watch{HostKeys: id.HostKeys, Key: id.Key}
	if a, err := readAdmission(root); err == nil {
		out.Admits = &a.WatchAdmits
		out.Admits.Broken = a.broken(root)
	} else if !errors.Is(err, fs.ErrNotExist) {
		out.Admits = &facts.WatchAdmits{Broken: err.Error()}
	}
	if c, err := readConfig(root); err == nil {
		out.Config = &c.WatchNote
	} else if !errors.Is(err, fs.ErrNotExist) {
		out.Config = &facts.WatchNote{}
	}
	var r facts.WatchReport
	if readJSON(root, facts.WatchReportFile, &r) == nil {
		r.AgoSeconds = max(0, int64(now.Sub(r.Looked).Seconds()))
		if c := r.Compared; c != nil {
			c.AgoSeconds = max(0, int64(now.Sub(c.At).Seconds()))
		}
		out.Report = &r
	}
	return out
}

// Remove removes everything of the unit from a host, and admits none any more.
var Remove = host.Define("watch.remove", func(ctx context.Context, _ struct{}) (struct{}, error) {
	units, err := system.Units(ctx, hostconfig.WatchUnit)
	if err != nil {
		return struct{}{}, err
	}
	if units[hostconfig.WatchUnit].Exists {
		if err := system.Systemctl(ctx, "disable", "--now", hostconfig.WatchUnit); err != nil {
			return struct{}{}, err
		}
	}
	if err := Revoke(""); err != nil {
		return struct{}{}, err
	}
	for _, path := range []string{hostconfig.WatchUnitFile, facts.WatchReportFile} {
		if err := durable.Remove(path); err != nil {
			return struct{}{}, err
		}
	}
	if err := os.RemoveAll(facts.WatchDir); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, system.Systemctl(ctx, "daemon-reload")
})

// Admit admits the units of control planes to a host, and says what they may restore there. They use a copy of the program of this
// session.
var Admit = host.Define("watch.admit", func(_ context.Context, in Admission) (struct{}, error) {
	if err := files.CopySelf(hostconfig.SelfPath); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, in.write("")
}, host.Secret)
