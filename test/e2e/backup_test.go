//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"quorate.dev/quorate/internal/backup/deep"
	"quorate.dev/quorate/internal/host/sshtest"
	hostbackup "quorate.dev/quorate/internal/hostside/backup"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
)

// backupServer is the machine that runs the stores.
const backupServer = "worker-a"

// backups takes a backup to each kind of store and verifies it. It changes nothing on the cluster, so it can run while the encryption
// key is rotated.
func backups(t *testing.T, c *cluster) {
	ctx := testContext(t)
	identity, recipient := newIdentity(t)
	other, _ := newIdentity(t)
	for _, store := range []struct {
		name  string
		start func(*testing.T, context.Context) spec.Backup
	}{
		{"directory", c.directoryStore}, {"sftp", c.sftpStore}, {"s3", c.s3Store},
	} {
		t.Run(store.name, func(t *testing.T) {
			b := store.start(t, ctx)
			b.Recipients, b.Every = []string{recipient}, spec.BackupNever
			file := c.edited(t, func(s *spec.Cluster) { s.Spec.Backup = b })
			var taken hostbackup.Result
			if err := json.Unmarshal([]byte(c.must(t, ctx, "backup", "-f", file, "-o", "json").stdout), &taken); err != nil {
				t.Fatal(err)
			}
			if all := c.backups(t, ctx, file); len(all) != 1 || all[0].File != taken.File || all[0].Bytes != taken.Bytes {
				t.Errorf("the store has %+v, and %+v was taken", all, taken)
			}
			if r := c.must(t, ctx, "backup", "verify", "-f", file, "--identity", identity); !strings.Contains(r.stdout, taken.File+" is good") {
				t.Errorf("%s", r)
			}
			if store.name == "directory" {
				c.verifyDeeply(t, ctx, file, identity)
			}
			if r := c.exits(t, ctx, 1, "backup", "verify", "-f", file, "--identity", other); !strings.Contains(r.stderr, "not encrypted to this identity") {
				t.Errorf("%s", r)
			}
			copied := filepath.Join(t.TempDir(), "copy.age")
			c.must(t, ctx, "backup", "fetch", "-f", file, taken.File, copied)
			c.must(t, ctx, "backup", "verify", "--identity", identity, copied)
			s, r, err := c.statusOf(ctx, file)
			if err != nil || s.Backups == nil || s.Backups.Last == nil || s.Backups.Last.File != taken.File {
				t.Errorf("status does not show %s: %v %s", taken.File, err, r)
			}
			if left := c.ssh(t, ctx, taken.Manifest.Host, "ls -A /var/lib/quorate/snapshots /var/lib/quorate/backup 2>/dev/null; true"); strings.Contains(left, "backup") || strings.Contains(left, "schedule") {
				t.Errorf("something is left on %s: %s", taken.Manifest.Host, left)
			}
		})
	}
}

// verifyDeeply has an API server read every object of the newest backup, and compares a few of the numbers with the cluster's.
func (c *cluster) verifyDeeply(t *testing.T, ctx context.Context, file, identity string) {
	t.Helper()
	var out struct{ Deep *deep.Report }
	r := c.must(t, ctx, "backup", "verify", "--deep", "-f", file, "--identity", identity, "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || out.Deep == nil {
		t.Fatalf("%v %s", err, r)
	}
	found := map[string]int{}
	for _, k := range out.Deep.Kinds {
		found[k.Name()] = k.Objects
	}
	s, _, err := c.status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if found["nodes"] != len(s.Nodes) || found["configmaps"] == 0 || found["deployments.apps"] == 0 || found["apiservices.apiregistration.k8s.io"] < 20 {
		t.Errorf("an API server found %v", found)
	}
	t.Logf("an API server read %d objects of %d kinds in %s; %d keys are no objects", out.Deep.Objects, len(out.Deep.Kinds), out.Deep.Took, out.Deep.Internal)
	for _, u := range out.Deep.Unclaimed {
		if u.Below != "/quorate.dev" {
			t.Errorf("no kind accounts for %+v", u)
		}
	}
	for _, n := range out.Deep.NotServed {
		t.Errorf("not read: %+v", n)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "quorate-verify-*")); err != nil || len(left) > 0 {
		t.Errorf("left on this machine: %v %v", left, err)
	}
}

// backupSchedule has the control planes take backups by themselves. The one that took the first is powered off, and another one takes
// the next. Then the schedule leaves the spec.
func backupSchedule(t *testing.T, c *cluster) {
	ctx := testContext(t)
	identity, recipient := newIdentity(t)
	b := c.directoryStore(t, ctx)
	b.Recipients, b.Every, b.Keep.Last = []string{recipient}, "10m", 3
	file := c.edited(t, func(s *spec.Cluster) { s.Spec.Backup = b })
	former := "" // of the stores of other tests, which etcd remembers
	if s, _, err := c.statusOf(ctx, file); err == nil && s.Backups != nil && s.Backups.Last != nil {
		former = s.Backups.Last.File
	}
	c.must(t, ctx, "apply", "-f", file)
	if again := c.must(t, ctx, "plan", "-f", file, "-o", "json"); len(planned(t, again)) > 0 {
		t.Errorf("something is left to do: %s", again)
	}
	for _, cp := range controlPlanes {
		if got := c.ssh(t, ctx, cp, "stat -c %a:%U /var/lib/quorate/backup /var/lib/quorate/backup/schedule.json; systemctl is-enabled quorate-backup.timer"); got != "700:root\n600:root\nenabled" {
			t.Errorf("on %s: %s", cp, got)
		}
	}
	takenBy := func(what string, is func(host string) bool) (host, name string) {
		t.Helper()
		poll(t, ctx, 3*time.Second, what, func() error {
			s, r, err := c.statusOf(ctx, file)
			switch {
			case err != nil:
				return err
			case s.Backups == nil || s.Backups.Last == nil || s.Backups.Last.File == former || !is(s.Backups.Last.Host):
				return errors.New(r.stdout)
			}
			host, name = s.Backups.Last.Host, s.Backups.Last.File
			return nil
		})
		return host, name
	}
	first, name := takenBy("the first backup", func(string) bool { return true })
	if r := c.must(t, ctx, "backup", "verify", "-f", file, "--identity", identity, name); !strings.Contains(r.stdout, "is good") {
		t.Errorf("%s", r)
	}
	if r := c.must(t, ctx, "status", "-f", file); !strings.Contains(r.stdout, name) || !strings.Contains(r.stdout, "one every 10m") {
		t.Errorf("%s", r)
	}
	if log := c.ssh(t, ctx, first, "journalctl --no-pager -o cat -u quorate-backup.service"); !strings.Contains(log, name+": ") {
		t.Errorf("the journal of %s does not have %s:\n%s", first, name, log)
	}

	c.labDo("fault", "power-off", first)(t, ctx)
	others := slices.DeleteFunc(slices.Clone(controlPlanes), func(cp string) bool { return cp == first })
	// One is due in ten minutes. Without what was noted, it is due now, and what the timers do in a while is done now.
	eventually(t, ctx, "etcd has a leader again, and forgets what was noted", func() error {
		if r := c.run(ctx, "lab", "--lab", c.name, "ssh", others[0], "etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt "+
			"--cert=/etc/kubernetes/pki/etcd/healthcheck-client.crt --key=/etc/kubernetes/pki/etcd/healthcheck-client.key del /quorate.dev/backup-last"); r.code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
	for _, cp := range others {
		c.ssh(t, ctx, cp, "systemctl start --no-block quorate-backup.service")
	}
	second, _ := takenBy("a backup that another control plane took", func(host string) bool { return host != first })
	if log := c.ssh(t, ctx, second, "journalctl --no-pager -o cat -u quorate-backup.service"); !strings.Contains(log, "a backup is due") {
		t.Errorf("the journal of %s:\n%s", second, log)
	}
	c.labDo("heal", "power-off", first)(t, ctx)
	c.whole(t, ctx)

	c.must(t, ctx, "apply", "-f", c.specFile())
	for _, cp := range controlPlanes {
		if got := c.ssh(t, ctx, cp, "ls -d /var/lib/quorate/backup /etc/systemd/system/quorate-backup.* /etc/systemd/system/timers.target.wants/quorate-backup.* 2>/dev/null; systemctl is-active quorate-backup.timer; true"); got != "inactive" {
			t.Errorf("on %s: %s", cp, got)
		}
	}
	c.unchanged(t, ctx, "-f", c.specFile())
}

func newIdentity(t *testing.T) (file, recipient string) {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "identity.txt")
	write(t, file, []byte(identity.String()+"\n"))
	return file, identity.Recipient().String()
}

func (c *cluster) backups(t *testing.T, ctx context.Context, file string) []run.StoredBackup {
	t.Helper()
	var list struct{ Backups []run.StoredBackup }
	if err := json.Unmarshal([]byte(c.must(t, ctx, "backup", "list", "-f", file, "-o", "json").stdout), &list); err != nil {
		t.Fatal(err)
	}
	return list.Backups
}

func (c *cluster) addressOf(t *testing.T, ctx context.Context, machine string) string {
	t.Helper()
	s, r, err := c.status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Nodes {
		if n.Name == machine {
			return n.Address
		}
	}
	t.Fatalf("no node %s in %s", machine, r)
	return ""
}

// directoryStore is a directory on every control plane, empty at first.
func (c *cluster) directoryStore(t *testing.T, ctx context.Context) spec.Backup {
	t.Helper()
	const dir = "/srv/e2e-backups"
	for _, cp := range controlPlanes {
		c.ssh(t, ctx, cp, "rm -rf "+dir+"; mkdir -p -m 700 "+dir)
	}
	return spec.Backup{Directory: dir}
}

// sftpStore is the sshd of a machine.
func (c *cluster) sftpStore(t *testing.T, ctx context.Context) spec.Backup {
	t.Helper()
	key, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	c.ssh(t, ctx, backupServer, "mkdir -p -m 700 /srv/e2e-sftp /root/.ssh; echo '"+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))+"' >>/root/.ssh/authorized_keys")
	fingerprint := strings.Fields(c.ssh(t, ctx, backupServer, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"))
	if len(fingerprint) < 2 {
		t.Fatalf("no host key: %q", fingerprint)
	}
	return spec.Backup{SFTP: spec.BackupSFTP{Address: net.JoinHostPort(c.addressOf(t, ctx, backupServer), "22"), User: "root", Directory: "/srv/e2e-sftp", KeyFile: key, HostKey: fingerprint[1]}}
}

// s3Program is an S3 server that keeps objects in a directory. It is not part of Quorate's own module.
const s3Program = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"

// s3Store runs a real S3 server on a machine.
func (c *cluster) s3Store(t *testing.T, ctx context.Context) spec.Backup {
	t.Helper()
	bin := t.TempDir()
	build := exec.CommandContext(ctx, "go", "install", s3Program)
	build.Dir, build.Env = bin, append(os.Environ(), "GOBIN="+bin, "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the S3 server: %v\n%s", err, out)
	}
	program, err := os.Open(filepath.Join(bin, "versitygw"))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	const dir, access, secret = "/srv/e2e-s3", "e2e-access", "e2e-very-secret"
	address := c.addressOf(t, ctx, backupServer)
	pair := selfSigned(t, "s3", net.ParseIP(address))
	certificate, _, _ := strings.Cut(pair, "-----BEGIN PRIVATE KEY")
	var said bytes.Buffer
	if err := c.lab(t).Exec(ctx, backupServer, []string{"sh", "-ec", "mkdir -p " + dir + "/data/backups; cat >" + dir + "/server; chmod 755 " + dir + "/server"}, program, &said, &said); err != nil {
		t.Fatalf("copying the S3 server: %v: %s", err, said.String())
	}
	c.put(t, ctx, backupServer, dir+"/server.pem", pair)
	c.ssh(t, ctx, backupServer, fmt.Sprintf("systemd-run --unit=e2e-s3 %[1]s/server --access %[2]s --secret %[3]s --port :7070 --cert %[1]s/server.pem --key %[1]s/server.pem posix %[1]s/data", dir, access, secret))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c.run(ctx, "lab", "--lab", c.name, "ssh", backupServer, "systemctl stop e2e-s3")
	})
	eventually(t, ctx, "the S3 server", func() error {
		if r := c.run(ctx, "lab", "--lab", c.name, "ssh", backupServer, "ss -Hltn 'sport = :7070' | grep -q ."); r.code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
	files := t.TempDir()
	ca, credentials := filepath.Join(files, "ca.crt"), filepath.Join(files, "credentials")
	write(t, ca, []byte(certificate))
	write(t, credentials, []byte("[default]\naws_access_key_id = "+access+"\naws_secret_access_key = "+secret+"\n"))
	return spec.Backup{S3: spec.BackupS3{Endpoint: "https://" + net.JoinHostPort(address, "7070"), Bucket: "backups", Prefix: "e2e", CredentialsFile: credentials, CAFile: ca}}
}
