package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Where the host keeps binaries, each in a directory named by its digest, and the digests of those that it has verified since it booted.
const (
	BinDir      = "/var/lib/quorate/bin"
	verifiedDir = "/run/quorate/verified"
)

// self is a binary of this program with its SHA-256 in hex, its size, and the architecture that it is for, determined once.
type self struct {
	path, digest, arch string
	size               int64
}

var executable = sync.OnceValues(func() (self, error) {
	path, err := os.Executable()
	if err != nil {
		return self{}, fmt.Errorf("finding this program's own binary: %w", err)
	}
	return selfOf(path, runtime.GOARCH)
})

func selfOf(path, arch string) (self, error) {
	f, err := os.Open(path)
	if err != nil {
		return self{}, err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	return self{path: path, digest: hex.EncodeToString(h.Sum(nil)), size: size, arch: arch}, err
}

func (s self) remote() string { return filepath.Join(BinDir, s.digest, "quorate") }

// RemotePath is where Dial puts this binary on a host of this machine's architecture. A lab puts it there in advance.
func RemotePath() (local, remote string, err error) {
	me, err := executable()
	return me.path, me.remote(), err
}

// RemotePathFor is where Dial puts this program on hosts of an architecture.
func RemotePathFor(arch string) (string, error) {
	me, err := executable()
	if err == nil && arch != me.arch {
		me, err = executableFor(machines[arch])
	}
	if err != nil {
		return "", err
	}
	return me.remote(), nil
}

// noBinary is the exit status of a host that does not have this binary, or only a damaged copy.
const noBinary = 127

// SearchPath is where programs are on a host. The PATH of a session can lack some of these directories: a sudo policy sets another one
// (secure_path), and so does a login shell.
const SearchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// findPrograms begins scripts that run other programs. A system with another layout has its own PATH behind it.
const findPrograms = "PATH=" + SearchPath + ":$PATH; export PATH; "

// variables are what the scripts refer to. Scripts must not contain single quotes.
func (s self) variables() string {
	return findPrograms + fmt.Sprintf("all=%s; dir=%s; bin=%s; sum=%s; size=%d; seen=%s; ", BinDir, filepath.Dir(s.remote()), s.remote(), s.digest, s.size,
		filepath.Join(verifiedDir, s.digest))
}

// serveScript starts the host side. After a power cut a name can exist without its contents, so the size of the binary is
// checked each time, and its digest once after each boot. Before a host gets the binary, it says what its processor is.
func serveScript(me self) string {
	return me.variables() + `if ! test -x $bin || ! test "$(wc -c <$bin)" -eq $size; then m=$(uname -m); test "$m" = ` + machines[me.arch] +
		` && exit ` + strconv.Itoa(noBinary) + `; echo "` + machineIs + `$m" >&2; exit ` + strconv.Itoa(otherMachine) + `; fi; ` +
		`if ! test -e $seen; then echo "$sum  $bin" | sha256sum -c - >/dev/null 2>&1 || exit ` + strconv.Itoa(noBinary) + `; mkdir -p $seen; fi; ` +
		`exec $bin host serve`
}

// uploading is what the host prints when it is ready to take the binary.
const uploading = "quorate upload ready\n"

// uploadScript writes the binary under its digest. The final name appears after the digest was compared and the contents
// are on the disk, and the name is on the disk when the script ends.
func uploadScript(me self) string {
	return me.variables() + `set -e; umask 077; mkdir -p $dir; t=$(mktemp $dir/.upload.XXXXXX); trap "rm -f $t" EXIT; ` +
		`echo ` + strings.TrimSpace(uploading) + `; cat >$t; echo "$sum  $t" | sha256sum -c - >&2; chmod 0755 $all $dir $t; ` +
		`sync $t; mv $t $bin; sync $dir $all; mkdir -p $seen`
}

// uploadPatience is how long a host may take nothing of an upload, or work on the end of it.
const uploadPatience = time.Minute

// advancing tells of each read.
type advancing struct {
	io.Reader
	tell func()
}

func (a *advancing) Read(b []byte) (int, error) {
	a.tell()
	return a.Reader.Read(b)
}

// upload puts this binary on the host.
func (d *dialer) upload(ctx context.Context, client *ssh.Client, t Target, me self) error {
	f, err := os.Open(me.path)
	if err != nil {
		return err
	}
	defer f.Close()
	p, err := d.run(ctx, client, t, uploadScript(me), uploading)
	if err != nil {
		return fmt.Errorf("uploading quorate: %w", err)
	}
	defer p.session.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(uploadPatience, func() { cancel(fmt.Errorf("uploading quorate: the host took nothing for %s", uploadPatience)) })
	defer stalled.Stop()
	stop := context.AfterFunc(ctx, func() { client.Close() }) // see newSSHSession
	defer stop()
	_, err = io.Copy(p.stdin, &advancing{f, func() { stalled.Reset(uploadPatience) }})
	if cerr := p.stdin.Close(); err == nil {
		err = cerr
	}
	if werr := p.session.Wait(); werr != nil {
		err = werr // more useful than the error about stdin
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("uploading quorate: %w: %s", err, p.stderr)
	}
	return nil
}

// whyNotStarted explains why the host side did not start.
func (d *dialer) whyNotStarted(ctx context.Context, client *ssh.Client, t Target, arch string, err error) error {
	var exit *ssh.ExitError
	var start *startError
	status := 0
	if errors.As(err, &exit) {
		status = exit.ExitStatus()
	}
	switch {
	case status == noBinary:
		return errNoBinary
	case status == otherMachine && errors.As(err, &start):
		return &machineError{arch, machineIn(start.stderr)}
	case status == 126:
		if err := d.noexec(ctx, client, t); err != nil {
			return err
		}
		return cannotRun(arch, err)
	case errors.As(err, &start) && start.stdout != "":
		start.advice += "; the login shell or a forced command of this key (command= in authorized_keys) may answer instead of the program"
		if t.User == "root" {
			start.advice += ": if it names another user, set ssh.user"
		}
	}
	return fmt.Errorf("the host side did not start: %w", err)
}

// cannotRun says that a host does not run the binary for an architecture, which need not be that of this machine; or its own copy.
func cannotRun(arch string, err error) error {
	if arch == "" {
		return fmt.Errorf("the host cannot run its copy of quorate: %w", err)
	}
	return fmt.Errorf("the host cannot run this program, which is for linux/%s: %w", arch, err)
}

const mountsFollow = "quorate mounts follow\n"

// noexec names the mount that keeps the host from running programs in BinDir; nil if there is none, or if the host does not
// say.
func (d *dialer) noexec(ctx context.Context, client *ssh.Client, t Target) error {
	p, err := d.run(ctx, client, t, findPrograms+"echo "+strings.TrimSpace(mountsFollow)+"; cat /proc/self/mountinfo", mountsFollow)
	if err != nil {
		return nil
	}
	defer p.session.Close()
	info, err := io.ReadAll(io.LimitReader(p.stdout, 1<<20))
	if err != nil {
		return nil
	}
	if mount := noexecMount(string(info), BinDir); mount != "" {
		return fmt.Errorf("the host cannot run programs in %s: %s is mounted with the option noexec; mount it without that option", BinDir, mount)
	}
	return nil
}

// noexecMount finds the mount that path is on, and returns its mount point if programs cannot be run there.
func noexecMount(mountinfo, path string) string {
	mount, noexec := "", false
	for line := range strings.Lines(mountinfo) {
		// 36 35 98:0 / /var rw,noexec,relatime …
		fields := strings.Fields(line)
		if len(fields) < 6 {
			continue
		}
		at := fields[4]
		below := at == "/" || path == at || strings.HasPrefix(path, at+"/")
		if below && len(at) >= len(mount) { // of mounts at the same place, the last one counts
			mount, noexec = at, strings.Contains(","+fields[5]+",", ",noexec,")
		}
	}
	if !noexec {
		return ""
	}
	return mount
}
