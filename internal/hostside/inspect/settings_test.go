package inspect

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// systemctl puts a program of that name first in PATH.
func systemctl(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func read(t *testing.T, req facts.Request) facts.Facts {
	t.Helper()
	c, err := host.Local(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := ReadFacts.On(t.Context(), c, req)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestUnits(t *testing.T) {
	systemctl(t, `cat <<'EOF'
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=disabled
Result=success
MainPID=42

LoadState=not-found
ActiveState=inactive
SubState=dead
UnitFileState=
EOF
`)
	f := read(t, facts.Request{Units: []string{"haproxy.service", "nosuch.service"}})
	if f.Units["haproxy.service"] != "active" || f.Enabled["haproxy.service"] != "disabled" || f.Units["nosuch.service"] != "inactive" || len(f.Enabled) != 1 || len(f.Unknown) > 0 {
		t.Errorf("units %v, enabled %v, unknown %v", f.Units, f.Enabled, f.Unknown)
	}
}

// TestSystemdThatDoesNotAnswer costs the facts about units and nothing else, and is no unit that does not run.
func TestSystemdThatDoesNotAnswer(t *testing.T) {
	for name, tc := range map[string]struct{ script, reason string }{
		"hangs": {"exec sleep 60\n", "no answer within"},
		"fails": {"echo 'Failed to connect to bus: Host is down' >&2; exit 1\n", "Host is down"},
	} {
		t.Run(name, func(t *testing.T) {
			systemctl(t, tc.script)
			f := read(t, facts.Request{Units: []string{"containerd.service"}, Files: []string{"/etc/passwd"}})
			if !strings.Contains(f.Unknown[facts.UnitsPart], tc.reason) || f.Hostname == "" || f.Files["/etc/passwd"] == "" {
				t.Errorf("%+v", f)
			}
			if got := hostconfig.Missing(facts.Desired{Enable: []string{"containerd.service"}}, &f); len(got) > 0 {
				t.Errorf("missing: %q", got)
			}
		})
	}
}

func TestFilesThatCannotBeReadAreUnknown(t *testing.T) {
	dir := t.TempDir()
	f := read(t, facts.Request{Files: []string{dir, filepath.Join(dir, "missing")}}) // a directory has no content
	if len(f.Files) > 0 || f.Unknown[dir] == "" || len(f.Unknown) != 1 {
		t.Errorf("files %v, unknown %v", f.Files, f.Unknown)
	}
}

// TestSpoiledSettingsAreMissing brings a host to what is desired, spoils it, and finds exactly that.
func TestSpoiledSettingsAreMissing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("files must belong to root")
	}
	path := filepath.Join(t.TempDir(), "unit")
	now := sysctls([]string{"kernel.ostype"})["kernel.ostype"]
	if now == "" {
		t.Fatal("the kernel does not say its name")
	}
	d := facts.Desired{Files: []facts.File{{Path: path, Content: "x", Mode: 0o600}}}
	c, err := host.Local(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := files.Configure.On(t.Context(), c, d); err != nil {
		t.Fatal(err)
	}
	d.Sysctls = map[string]string{"kernel.ostype": now, "net.bridge.no-such-setting": "1"}
	missing := func() []string {
		f := read(t, facts.Request{Files: []string{path}, Sysctls: []string{"kernel.ostype", "net.bridge.no-such-setting"}})
		return hostconfig.Missing(d, &f)
	}
	if got := missing(); len(got) > 0 {
		t.Fatalf("%q", got)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	d.Sysctls["kernel.ostype"] = "Plan 9"
	if got := missing(); !slices.Equal(got, []string{path + " has mode 644 instead of 600", "kernel.ostype is " + now + " instead of Plan 9"}) {
		t.Errorf("%q", got)
	}
}

func TestMountedDirectories(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"etcd", "kubelet"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	etcd := filepath.Join(dir, "etcd")
	if err := unix.Mount("tmpfs", etcd, "tmpfs", 0, "size=8m"); errors.Is(err, fs.ErrPermission) {
		t.Skip("mounting needs root")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(etcd, 0); err != nil {
			t.Error(err)
		}
	})
	got := mounted(dir, []string{etcd, filepath.Join(dir, "kubelet"), filepath.Join(dir, "missing")})
	if d := got[etcd]; len(got) != 1 || d.SizeBytes != 8<<20 || d.FreeBytes == 0 || d.InodesFree == 0 {
		t.Errorf("%+v", got)
	}
}

func TestKubeconfigCertificates(t *testing.T) {
	dir := t.TempDir()
	expires := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes-admin"}, NotAfter: expires}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	data := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	for name, text := range map[string]string{
		"admin.conf":     fmt.Sprintf("kind: Config\nusers:\n- name: admin\n  user: {client-certificate-data: %s, client-key-data: c2VjcmV0}\n", data),
		"kubelet.conf":   "kind: Config\nusers:\n- name: node\n  user: {client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem}\n",
		"scheduler.conf": "",
		"damaged.conf":   "users: [",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := kubeconfigCertificates(dir, nil)
	if len(got) != 1 || got[0].Name != "admin.conf" || !got[0].Expires.Equal(expires) {
		t.Errorf("%+v", got)
	}
}
