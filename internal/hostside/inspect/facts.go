// Package inspect reads a host: its facts, how it is secured, and what preflight asks for. It changes nothing.
package inspect

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/blobs"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/hostside/programs"
	"quorate.dev/quorate/internal/hostside/repairs"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/hostside/watch"
	"quorate.dev/quorate/internal/hostside/withdrawal"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/staticpod"
)

const kubernetesDir = "/etc/kubernetes"

// ReadFacts reads a host's facts; it changes nothing.
var ReadFacts = host.Define("node.facts", readFacts, host.Reads)

func readFacts(ctx context.Context, req facts.Request) (facts.Facts, error) {
	f := facts.Facts{Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Time: time.Now(), Files: map[string]string{}, Units: map[string]string{}}
	var err error
	if f.Hostname, err = os.Hostname(); err != nil {
		return f, err
	}
	f.MachineID = system.ReadTrimmed("/etc/machine-id")
	f.BootID = system.BootID()
	release := osRelease()
	f.OS, f.Family = release["PRETTY_NAME"], facts.FamilyOf(release)
	f.Container = system.Container()
	f.Kernel = system.ReadTrimmed("/proc/sys/kernel/osrelease")
	f.MemoryBytes, f.SwapBytes = memory()
	if d, ok := disk("/var/lib"); ok {
		f.DiskFreeBytes, f.DiskBytes = d.FreeBytes, d.SizeBytes
	}
	f.Disks = mounted("/var/lib", componentDirs)
	if d, own := mounted("/var/lib", []string{facts.ProgramsDir})[facts.ProgramsDir]; own {
		f.ProgramsDisk = &d
	}
	_, err = os.Stat("/sys/fs/cgroup/cgroup.controllers")
	f.CgroupV2 = err == nil
	f.CanLowerOOMScore = hasCapability(unix.CAP_SYS_RESOURCE)
	f.CanSetConntrack = unix.Access("/proc/sys/net/netfilter/nf_conntrack_max", unix.W_OK) == nil
	f.Addresses = system.Addresses()
	readFiles(req.Files, &f)
	f.Sysctls = sysctls(req.Sysctls)
	f.Modules = modules(req.Modules, f.Kernel)
	f.Registries = registryFiles("")
	for _, p := range req.Programs {
		if _, err := exec.LookPath(hostconfig.ProgramPath(p)); err != nil {
			f.Lacks = append(f.Lacks, p)
		}
	}
	if f.Self, err = files.Self(hostconfig.SelfPath); err != nil {
		return f, fmt.Errorf("comparing %s: %w", hostconfig.SelfPath, err)
	}
	if f.Pending, err = files.Pending(); err != nil {
		return f, err
	}
	installed, err := programs.Read(ctx)
	if err != nil {
		return f, fmt.Errorf("reading which programs are installed: %w", err)
	}
	f.Bundles, f.Programs, f.ProgramProblems, f.Binaries = installed.Bundles, installed.Programs, installed.Problems, installed.Binaries
	f.Images = blobs.Imported()
	f.Remains = remains(installed)
	f.Snapshots = snapshots("")
	f.Watch, f.Tried = watch.Read("", f.Time), repairs.Tried("", f.Time)
	f.Kubernetes = Kubernetes("", req.SharedPKI)
	readPrograms(ctx, req.Units, &f)
	f.Kubernetes.EtcdFailure, f.Kubernetes.Removable, f.Kept = etcd.Local.Failure(ctx), repairs.Removable("", f.Time), repairs.Kept("")
	unused, err := programs.Unused()
	if damaged, is := errors.AsType[*blobs.DamagedError](err); is {
		f.BundleDamage, err = damaged.Bundles, nil
	}
	if err == nil { // what is not known is not removed
		f.Unused = unused
		f.Kubernetes.Removable += unused[""]
	}
	return f, ctx.Err()
}

// snapshots are the names of the snapshots of etcd on this host.
func snapshots(root string) (out []string) {
	all, err := filepath.Glob(filepath.Join(root, facts.SnapshotDir, facts.SnapshotFiles))
	if err != nil {
		return nil // the pattern is wrong, which tests find
	}
	for _, file := range all {
		out = append(out, filepath.Base(file))
	}
	slices.Sort(out)
	return out
}

// Kubernetes reads what a host holds of a cluster, and which of the shared keys it lacks. root is empty for the host itself,
// or a directory in tests.
func Kubernetes(root string, shared []string) facts.Kubernetes {
	at := func(path string) string { return filepath.Join(root, path) }
	dir, pki := at(kubernetesDir), at(kubernetesDir+"/pki")+"/"
	member := etcd.Member{Root: root}
	k := facts.Kubernetes{SharedPKI: true, EtcdData: member.HasData(), Established: system.Exists(at(facts.EstablishedFile)),
		Begun: system.Exists(at(facts.BegunFile)), Adopted: system.Exists(at(facts.AdoptedFile)), Resetting: system.Exists(at(facts.ResettingFile)),
		KubeletConfig: pkifile.Identity(root) == nil && system.Filled(at("/var/lib/kubelet/config.yaml")),
		EtcdAbandoned: member.Abandoned(), EtcdGuard: member.Armed(), EtcdPodGuard: member.PodGuarded(), SuperAdmin: system.Exists(dir + "/super-admin.conf")}
	if ca, err := os.ReadFile(pki + "ca.crt"); err == nil {
		k.CA = facts.CertificatesIn(string(ca))
	}
	for _, mark := range []string{facts.EstablishedFile, facts.BegunFile, facts.AdoptedFile} {
		content, err := os.ReadFile(at(mark))
		if name := strings.TrimSpace(string(content)); err == nil && name != "" && !slices.Contains(k.Clusters, name) {
			k.Clusters = append(k.Clusters, name)
		}
	}
	k.Restore = mark(at(facts.RestoreFile), facts.Restore{File: "unknown (" + at(facts.RestoreFile) + " cannot be read)"})
	k.Maintenance = mark(at(facts.MaintenanceFile), facts.Maintenance{})
	k.Flags = staticPodFlags(dir + "/manifests")
	k.Arguments, k.Issuers = staticPodArguments(dir+"/manifests"), issuers(dir+"/manifests")
	k.Kubelet, k.KubeletDue = kubeletFields(at("/var/lib/kubelet/config.yaml")), k.KubeletConfig && system.Exists(at(facts.KubeletSettingsDue))
	for _, f := range shared {
		// An API server that was set up without encryption at rest needs no key.
		unused := f == encryption.File && system.Exists(dir+"/manifests/kube-apiserver.yaml") && k.Flags[facts.EncryptionFlag] != hostconfig.EncryptionFile
		if !system.Filled(pki+f) && !unused {
			k.SharedPKI, k.MissingPKI = false, append(k.MissingPKI, f)
		}
	}
	if began, err := member.Began(); err == nil {
		k.EtcdInitial, k.EtcdToken = began.Members, began.Token
	}
	k.EtcdTimers = member.Timers()
	if ca, err := os.ReadFile(pki + facts.EtcdPKI[0]); err == nil {
		k.EtcdCA, k.EtcdCAKey = string(ca), system.Filled(pki+facts.EtcdPKI[1])
	}
	if client, err := os.ReadFile(pki + facts.EtcdClientPKI[0]); err == nil && len(client) > 0 && system.Filled(pki+facts.EtcdClientPKI[1]) {
		k.EtcdClient = facts.Sum(client)
	}
	confs, _ := filepath.Glob(dir + "/*.conf")
	for _, conf := range confs {
		if server := apiServer(conf); server != "" {
			if k.Servers == nil {
				k.Servers = map[string]string{}
			}
			k.Servers[filepath.Base(conf)] = server
		}
	}
	if c, ok := certificate(pki + "apiserver.crt"); ok {
		k.ServingNames = c.DNSNames
		for _, ip := range c.IPAddresses {
			k.ServingNames = append(k.ServingNames, ip.String())
		}
	}
	beside := apiServer(dir + "/controller-manager.conf")
	k.KubeletAway = beside != "" && k.KubeletConfig && (apiServer(dir+"/kubelet.conf") != beside || system.Exists(at(facts.KubeletRestartDue)))
	manifests, _ := filepath.Glob(dir + "/manifests/*.yaml")
	for _, m := range manifests {
		pod, err := staticpod.Read(m)
		if err != nil {
			continue // left by a program that was killed while it was writing
		}
		name := strings.TrimSuffix(filepath.Base(m), ".yaml")
		k.Manifests = append(k.Manifests, name)
		if k.PodImages == nil {
			k.PodImages = map[string]string{}
		}
		k.PodImages[name] = pod.Spec.Containers[0].Image
		if name == "kube-apiserver" {
			k.SharesPort, k.ProbesEtcd = staticpod.Arguments(pod)[hostconfig.PortSharing] == "true", probesEtcd(pod)
		}
	}
	k.Withdrawn = withdrawal.Host{Root: root}.Withdrawn()
	signers := authorities(pki)
	for _, glob := range []string{pki + "*.crt", pki + "etcd/*.crt"} {
		files, _ := filepath.Glob(glob)
		for _, file := range files {
			if c, ok := certificate(file); ok {
				k.Certificates = append(k.Certificates, describe(strings.TrimPrefix(file, dir+"/"), file, c, signers))
			}
		}
	}
	kubelet := at("/var/lib/kubelet/pki") + "/"
	for _, name := range []string{facts.KubeletClient, facts.KubeletServer} {
		if c, ok := certificate(kubelet + name + "-current.pem"); ok {
			k.Certificates = append(k.Certificates, describe(name, kubelet+name+"-current.pem", c, signers))
		}
	}
	k.Certificates = append(k.Certificates, kubeconfigCertificates(dir, signers)...)
	if c, ok := kubeconfigCertificate(at(facts.ApproverFile)); ok {
		k.Certificates = append(k.Certificates, describe(facts.ApproverCertificate, at(facts.ApproverFile), c, signers))
	}
	if c, ok := certificate(kubelet + "kubelet-client-current.pem"); ok {
		k.NodeName = strings.TrimPrefix(c.Subject.CommonName, "system:node:")
	}
	k.Trust = trust(dir)
	if file, err := os.ReadFile(pki + encryption.File); err == nil {
		keys, _ := encryption.Parse(file)
		k.EncryptionKeys = keys.Names()
	}
	return k
}

// mark reads a mark; nil if there is none. One that cannot be read is there all the same.
func mark[T any](path string, unreadable T) *T {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var out T
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		return &unreadable
	}
	return &out
}

// apiServer is the server of a kubeconfig; empty without one.
func apiServer(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return kubeadm.ServerOf(string(content))
}

func certificate(path string) (*x509.Certificate, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, false
	}
	return firstCertificate(data)
}

func firstCertificate(data []byte) (*x509.Certificate, bool) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			c, err := x509.ParseCertificate(block.Bytes)
			if err == nil && c.IsCA { // of an authority, any certificate for its key counts; what serves presents the first one
				c = pkifile.Latest(c, data)
			}
			return c, err == nil
		}
	}
	return nil, false
}

// describe is what facts say of a certificate in a file.
func describe(name, path string, c *x509.Certificate, signers []*x509.Certificate) facts.Certificate {
	out := facts.Certificate{Name: name, Begins: c.NotBefore, Expires: c.NotAfter, Issuer: c.Issuer.CommonName, CA: c.IsCA, SignedBy: signedBy(c, signers)}
	if st, err := os.Stat(path); err == nil {
		out.Written = st.ModTime()
	}
	return out
}

func osRelease() map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(cmp.Or(system.ReadTrimmed("/etc/os-release"), system.ReadTrimmed("/usr/lib/os-release"))) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[k] = strings.Trim(v, `"'`)
		}
	}
	return out
}

func memory() (total, swap int64) {
	data, _ := os.ReadFile("/proc/meminfo")
	scan := bufio.NewScanner(bytes.NewReader(data))
	for scan.Scan() {
		fields := strings.Fields(scan.Text())
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "MemTotal:":
			total = kib << 10
		case "SwapTotal:":
			swap = kib << 10
		}
	}
	return total, swap
}

func hasCapability(c uint) bool {
	for line := range strings.Lines(system.ReadTrimmed("/proc/self/status")) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && mask&(1<<c) != 0
		}
	}
	return syscall.Geteuid() == 0
}
