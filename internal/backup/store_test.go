package backup

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"quorate.dev/quorate/internal/host/sshtest"
)

// sftpServer runs a real SFTP server, with an RSA and an Ed25519 host key.
func sftpServer(t *testing.T) (SFTP, []ssh.Signer) {
	t.Helper()
	file, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	var signers []ssh.Signer
	for _, k := range []any{own, other} {
		s, err := ssh.NewSignerFromKey(k)
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, s)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != "backup" || !bytes.Equal(k.Marshal(), public.Marshal()) {
			return nil, io.EOF
		}
		return nil, nil
	}}
	for _, s := range signers {
		config.AddHostKey(s)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go serveSFTP(nc, config)
		}
	}()
	return SFTP{Address: l.Addr().String(), User: "backup", Directory: t.TempDir(), HostKey: ssh.FingerprintSHA256(signers[0].PublicKey()), Key: key}, signers
}

func serveSFTP(nc net.Conn, config *ssh.ServerConfig) {
	_, channels, requests, err := ssh.NewServerConn(nc, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		ch, requests, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				r.Reply(r.Type == "subsystem", nil)
			}
		}()
		server, err := sftp.NewServer(ch)
		if err != nil {
			return
		}
		go server.Serve()
	}
}

// s3Server runs a real server of the S3 protocol over TLS.
func s3Server(t *testing.T) S3 {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return S3{Endpoint: server.URL, Bucket: "backups", Prefix: "clusters/prod", Region: "us-east-1", CA: ca, AccessKey: "access", SecretKey: "secret"}
}

func TestStores(t *testing.T) {
	server, _ := sftpServer(t)
	bucket := s3Server(t)
	for name, at := range map[string]Location{"directory": {Directory: t.TempDir()}, "sftp": {SFTP: &server}, "s3": {S3: &bucket}} {
		t.Run(name, func(t *testing.T) { testStore(t, at) })
	}
}

// accept reads a backup, and takes it for a good one.
func accept(in io.Reader) error { _, err := io.Copy(io.Discard, in); return err }

func testStore(t *testing.T, at Location) {
	ctx := context.Background()
	s, err := at.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if all, err := s.List(ctx); err != nil || len(all) != 0 {
		t.Fatalf("a new store has %v %v", all, err)
	}
	content := make([]byte, partBytes+partBytes/2) // more than one part
	rand.Read(content)                             //nolint:errcheck // it never fails
	n := nameOf(t, manifest())
	var files []string
	for i := range 4 {
		n.Time = n.Time.Add(time.Hour)
		files = append(files, n.String())
		kept, err := Keep(ctx, s, n.String(), func(w io.Writer) error { _, err := w.Write(content[:len(content)/(i*i*i*i+1)]); return err })
		if err != nil {
			t.Fatal(err)
		}
		if kept.Bytes != int64(len(content)/(i*i*i*i+1)) {
			t.Errorf("%+v", kept)
		}
	}
	other := Name{"prod", "ffffffff", n.Etcd, n.Time, "cp-a"} // another cluster of the same name
	if err := s.Put(ctx, other.String(), strings.NewReader("other"), accept); err != nil {
		t.Fatal(err)
	}
	in, err := s.Open(ctx, files[0], 1000)
	if err != nil {
		t.Fatal(err)
	}
	have, err := io.ReadAll(in)
	in.Close()
	if err != nil || !bytes.Equal(have, content[1000:]) {
		t.Errorf("from an offset: %d bytes, %v", len(have), err)
	}
	if in, err = s.Open(ctx, files[0], int64(len(content))); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(in); err != nil || len(rest) != 0 {
		t.Errorf("from the end: %d bytes, %v", len(rest), err)
	}
	in.Close()
	if _, err := s.Open(ctx, "prod.1a2b3c4d.5e6f7a8b.20000101T000000Z.cp-a.backup.age", 0); err == nil {
		t.Error("a backup that does not exist was opened")
	}
	broken := n
	broken.Time = n.Time.Add(time.Hour)
	if err := s.Put(ctx, broken.String(), io.MultiReader(bytes.NewReader(content), failingReader{}), accept); err == nil {
		t.Error("half of a backup was stored")
	}
	if err := s.Put(ctx, broken.String(), strings.NewReader("other"), func(io.Reader) error { return errors.New("unlike") }); err == nil || !strings.Contains(err.Error(), "unlike") {
		t.Errorf("a backup that is not accepted: %v", err)
	}
	if left, err := s.Sweep(ctx, n); err != nil || len(left) > 0 {
		t.Errorf("left of uploads that ended in order: %v %v", left, err)
	}
	removed, err := Prune(ctx, s, n, Retention{Last: 2})
	if err != nil || len(removed) != 2 {
		t.Errorf("removed %v %v", removed, err)
	}
	all, err := s.List(ctx)
	if err != nil || len(all) != 3 || all[len(all)-1].File != files[2] {
		t.Errorf("left are %v %v", all, err)
	}
	if err := s.Remove(ctx, files[0]); err != nil {
		t.Errorf("removing what is gone: %v", err)
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A process that is killed leaves a part. The next backup of the same cluster removes it, and nothing ever takes it for a backup.
func TestWhatKilledProcessesLeave(t *testing.T) {
	ctx := context.Background()
	n := nameOf(t, manifest())
	stranger := n
	stranger.UID = "ffffffff"
	server, _ := sftpServer(t)
	dir, bucket := t.TempDir(), s3Server(t)
	for _, place := range []string{dir, server.Directory} {
		for _, name := range []string{partialName(n.String()), partialName(stranger.String()), ".other.partial", "." + n.String()} {
			if err := os.WriteFile(filepath.Join(place, name), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	s3, err := bucket.connect()
	if err != nil {
		t.Fatal(err)
	}
	core := minio.Core{Client: s3.(*s3Store).client}
	for _, name := range []string{n.String(), stranger.String(), "deeper/" + n.String()} {
		id, err := core.NewMultipartUpload(ctx, "backups", "clusters/prod/"+name, minio.PutObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := core.PutObjectPart(ctx, "backups", "clusters/prod/"+name, id, 1, strings.NewReader("half"), 4, minio.PutObjectPartOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, at := range map[string]Location{"directory": {Directory: dir}, "sftp": {SFTP: &server}, "s3": {S3: &bucket}} {
		s, err := at.Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if all, err := s.List(ctx); err != nil || len(all) > 0 {
			t.Errorf("%s: a part is listed: %v %v", name, all, err)
		}
		if removed, err := s.Sweep(ctx, n); err != nil || len(removed) != 1 || !strings.Contains(removed[0], n.String()) {
			t.Errorf("%s: removed %q %v", name, removed, err)
		}
		if removed, err := s.Sweep(ctx, n); err != nil || len(removed) != 0 {
			t.Errorf("%s: removed again %q %v", name, removed, err)
		}
		if removed, err := s.Sweep(ctx, stranger); err != nil || len(removed) != 1 {
			t.Errorf("%s: of another cluster: %q %v", name, removed, err)
		}
		s.Close()
	}
}

// A server that does not answer any more ends a transfer, and a slow one does not.
func TestTransfersThatStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		moved := &transfer{stall: 300 * time.Millisecond}
		begin := time.Now()
		err := moved.moving(ctx, func(ctx context.Context) error {
			for range 8 {
				time.Sleep(100 * time.Millisecond) // of the test's own clock
				moved.bytes.Add(1)
			}
			return ctx.Err()
		})
		if err != nil || time.Since(begin) < 2*moved.stall {
			t.Errorf("a slow transfer: %v", err)
		}
		aborted := make(chan struct{})
		moved.abort = sync.OnceFunc(func() { close(aborted) })
		err = moved.moving(ctx, func(context.Context) error { <-aborted; return io.ErrClosedPipe })
		if err == nil || !strings.Contains(err.Error(), "transferred nothing") {
			t.Errorf("a hung operation: %v", err)
		}
		from, to := io.Pipe()
		moved.abort = func() { to.CloseWithError(io.ErrClosedPipe) }
		if _, err := io.ReadAll(moved.reader(ctx, from)); err == nil || !strings.Contains(err.Error(), "transferred nothing") {
			t.Errorf("a hung read: %v", err)
		}
		ctx, cancel := context.WithCancelCause(ctx)
		cancel(errors.New("the user"))
		if _, err := io.ReadAll(moved.reader(ctx, strings.NewReader("x"))); err == nil || err.Error() != "the user" {
			t.Errorf("%v", err)
		}
	})
}

func TestDirectoriesThatAreNotMounted(t *testing.T) {
	const fstab = "# comment\nUUID=1 / ext4 defaults 0 1\nnas:/x /srv/back\\040ups nfs defaults 0 0\nswap none swap sw 0 0\n/dev/sdb1 /srv ext4 defaults 0 2\n"
	const root, srv = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "23 22 8:17 / /srv rw shared:1 - ext4 /dev/sdb1 rw\n"
	const nfs, auto = "24 23 0:40 / /srv/back\\040ups rw - nfs4 nas:/x rw\n", "24 23 0:41 / /srv/back\\040ups rw - autofs systemd-1 rw\n"
	for _, c := range []struct{ dir, mounts, want string }{
		{"/srv/back ups/prod", root + srv + nfs, ""},
		{"/srv/back ups", root + srv + nfs, ""},
		{"/srv/back ups/prod", root + srv, "/srv/back ups"},
		{"/srv/back ups/prod", root + srv + auto, "/srv/back ups"},
		{"/srv/other", root + srv, ""},
		{"/srv/other", root, "/srv"},
		{"/backups", root, ""},
	} {
		if got := notMounted(c.dir, fstab, c.mounts); got != c.want {
			t.Errorf("%s: %q, want %q", c.dir, got, c.want)
		}
	}
}

func TestSFTPHostKeys(t *testing.T) {
	ctx := context.Background()
	server, keys := sftpServer(t)
	for _, k := range keys {
		for _, pin := range []string{ssh.FingerprintSHA256(k.PublicKey()), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.PublicKey())))} {
			s := server
			s.HostKey = pin
			store, err := Location{SFTP: &s}.Connect(ctx)
			if err != nil {
				t.Errorf("%s: %v", pin, err)
				continue
			}
			store.Close()
		}
	}
	other, _ := sftpServer(t)
	wrong := server
	wrong.HostKey = other.HostKey
	if _, err := (Location{SFTP: &wrong}).Connect(ctx); err == nil || !strings.Contains(err.Error(), "intercepting") {
		t.Errorf("another host key: %v", err)
	}
	wrong = server
	wrong.User = "nobody"
	if _, err := (Location{SFTP: &wrong}).Connect(ctx); err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
		t.Errorf("another user: %v", err)
	}
	wrong = server
	wrong.Key = []byte("no key, but a secret")
	if _, err := (Location{SFTP: &wrong}).Connect(ctx); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("no key: %v", err)
	}
}

func TestLocationsAreShownWithoutSecrets(t *testing.T) {
	for _, l := range []Location{{SFTP: &SFTP{Address: "h:22", User: "u", Directory: "/d", Key: []byte("SECRET")}}, {S3: &S3{Endpoint: "https://s", Bucket: "b", Prefix: "p", AccessKey: "SECRET", SecretKey: "SECRET"}}, {Directory: filepath.Clean("/d")}} {
		if s := l.String(); strings.Contains(s, "SECRET") || s == "" {
			t.Error(s)
		}
	}
}

func TestCredentialsAreRemovedFromErrors(t *testing.T) {
	const text = "the key id-1 with secret/2 and token3 is refused"
	for want, l := range map[string]Location{
		"the key *** with *** and *** is refused": {S3: &S3{AccessKey: "id-1", SecretKey: "secret/2", SessionToken: "token3"}},
		text: {S3: &S3{}},
	} {
		if got := l.Redact(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := (Location{Directory: "/srv"}).Redact(text); got != text {
		t.Errorf("%q", got)
	}
}
