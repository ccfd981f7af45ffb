package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// self is this program's own binary and its SHA-256 in hex, read once.
type self struct{ path, digest string }

var executable = sync.OnceValues(func() (self, error) {
	path, err := os.Executable()
	if err != nil {
		return self{}, fmt.Errorf("finding this program's own binary: %w", err)
	}
	digest, err := digestOf(path)
	return self{path, digest}, err
})

// RemotePath is where Dial puts this binary on a host; a lab places it there beforehand.
func RemotePath() (local, remote string, err error) {
	me, err := executable()
	return me.path, binDir + "/" + me.digest + "/quorate", err
}

// uploading is what the host prints when it is ready to take the binary.
const uploading = "quorate upload ready\n"

// upload writes the binary under its digest. The digest is checked on the host before the final name
// exists, so a name that exists is a whole binary.
func (d *dialer) upload(ctx context.Context, client *ssh.Client, t Target, me self, remote string) error {
	f, err := os.Open(me.path)
	if err != nil {
		return err
	}
	defer f.Close()
	dir := filepath.Dir(remote)
	p, err := d.start(ctx, client, t, "set -e; umask 077; mkdir -p "+dir+"; t=$(mktemp "+dir+"/.upload.XXXXXX); trap \"rm -f $t\" EXIT; "+
		"echo "+strings.TrimSpace(uploading)+"; cat >$t; echo \""+me.digest+"  $t\" | sha256sum -c - >&2; chmod 0755 "+binDir+" "+dir+" $t; mv $t "+remote, uploading)
	if err != nil {
		return fmt.Errorf("uploading quorate: %w", err)
	}
	defer p.session.Close()
	stop := context.AfterFunc(ctx, func() { p.session.Close() })
	defer stop()
	_, err = io.Copy(p.stdin, f)
	if cerr := p.stdin.Close(); err == nil {
		err = cerr
	}
	if werr := p.session.Wait(); werr != nil {
		err = werr // says more than that its stdin is gone
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("uploading quorate: %w: %s", err, p.stderr)
	}
	return nil
}

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
