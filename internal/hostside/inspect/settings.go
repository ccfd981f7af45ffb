package inspect

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// readFiles reads the contents and modes of files by File.Key. A file that exists and cannot be read is unknown, not
// missing.
func readFiles(keys []string, f *facts.Facts) {
	f.Modes = map[string]facts.Mode{}
	for _, key := range keys {
		sum, err := files.Sum(key)
		if err == nil {
			f.Files[key] = sum
		} else if !errors.Is(err, fs.ErrNotExist) {
			unknown(f, key, err)
		}
		path, _, _ := strings.Cut(key, "#")
		if m, ok := mode(path); ok {
			f.Modes[path] = m
		}
	}
}

func unknown(f *facts.Facts, part string, err error) {
	if f.Unknown == nil {
		f.Unknown = map[string]string{}
	}
	f.Unknown[part] = err.Error()
}

// partTimeout is how long systemd and containerd may take. Both can hang while everything else about the host can be read.
const partTimeout = 2 * time.Second

// readPrograms queries systemd and containerd. If one of them does not answer, only its facts are unknown.
func readPrograms(ctx context.Context, units []string, f *facts.Facts) {
	ctx, cancel := context.WithTimeoutCause(ctx, partTimeout, fmt.Errorf("no answer within %s", partTimeout))
	defer cancel()
	var (
		wg         sync.WaitGroup
		states     map[string]system.Unit
		unitsErr   error
		problems   []string
		problemErr error
	)
	wg.Go(func() { states, unitsErr = system.Units(ctx, units...) })
	if f.Images != "" {
		wg.Go(func() { problems, problemErr = containerd.ImageProblems(ctx) })
	}
	wg.Wait()
	f.ImageProblems, f.Enabled = problems, map[string]string{}
	for name, u := range states {
		f.Units[name] = u.Active
		if u.Exists {
			f.Enabled[name] = u.Enabled
		}
		if name == hostconfig.ExporterUnit && f.Watch != nil {
			f.Watch.Exporter = u.Status
		}
		if name == hostconfig.EtcdUnit && u.PID != 0 {
			f.Kubernetes.EtcdRuns = etcd.Local.Runs(u.PID)
		}
	}
	for part, err := range map[string]error{facts.UnitsPart: unitsErr, facts.ImagesPart: problemErr} {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			unknown(f, part, err)
		}
	}
}

func sysctls(names []string) map[string]string {
	out := map[string]string{}
	for _, name := range names {
		files, _ := filepath.Glob(facts.SysctlFile(name)) // a name may have a star
		for _, file := range files {
			if b, err := os.ReadFile(file); err == nil {
				out[facts.SysctlName(file)] = strings.TrimSpace(string(b))
			}
		}
	}
	return out
}

// modules reports which of the modules are in use. If the system does not list its modules, as in a container, a module that
// is not in use may be built in, so it is unknown.
func modules(names []string, release string) map[string]facts.Feature {
	if len(names) == 0 {
		return nil
	}
	known := kernelFeatures(os.DirFS("/"), release)
	out := map[string]facts.Feature{}
	for _, name := range names {
		out[name] = facts.Unknown
		if have, ok := known[name]; ok {
			out[name] = have
		}
	}
	return out
}

// componentDirs are directories that grow, and are separate file systems on some hosts.
var componentDirs = []string{"/var/lib/etcd", "/var/lib/containerd", "/var/lib/kubelet"}

// mounted are those of the directories that are on another file system than their parent.
func mounted(parent string, dirs []string) map[string]facts.Disk {
	out := map[string]facts.Disk{}
	var above, st unix.Stat_t
	if unix.Stat(parent, &above) != nil {
		return nil
	}
	for _, dir := range dirs {
		if unix.Stat(dir, &st) != nil || st.Dev == above.Dev {
			continue
		}
		if d, ok := disk(dir); ok {
			out[dir] = d
		}
	}
	return out
}

func disk(path string) (facts.Disk, bool) {
	var st unix.Statfs_t
	if unix.Statfs(path, &st) != nil || st.Blocks == 0 {
		return facts.Disk{}, false
	}
	d := facts.Disk{FreeBytes: int64(st.Bavail) * st.Bsize, SizeBytes: int64(st.Blocks) * st.Bsize, InodesFree: 1}
	if st.Files > 0 { // file systems without a fixed number of inodes say 0
		d.InodesFree = float64(st.Ffree) / float64(st.Files)
	}
	return d, true
}

// kubeconfigCertificates are the client certificates in the kubeconfigs of a directory.
func kubeconfigCertificates(dir string, signers []*x509.Certificate) (out []facts.Certificate) {
	paths, _ := filepath.Glob(filepath.Join(dir, "*.conf"))
	for _, path := range paths {
		if c, ok := kubeconfigCertificate(path); ok {
			out = append(out, describe(filepath.Base(path), path, c, signers))
		}
	}
	return out
}

// kubeconfigCertificate is the first client certificate that a kubeconfig holds.
func kubeconfigCertificate(path string) (*x509.Certificate, bool) {
	var config struct {
		Users []struct {
			User struct {
				Certificate []byte `json:"client-certificate-data"`
			} `json:"user"`
		} `json:"users"`
	}
	data, err := os.ReadFile(path)
	if err != nil || yaml.Unmarshal(data, &config) != nil {
		return nil, false
	}
	for _, u := range config.Users {
		if c, ok := firstCertificate(u.User.Certificate); ok {
			return c, true
		}
	}
	return nil, false
}
