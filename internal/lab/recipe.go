package lab

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
)

// Images are the systems that machines can have, independent of the caller's. The first is the default.
var Images = []string{"debian-12", "debian-13"}

// suites are the names under which mirrors have the releases.
var suites = map[string]string{"debian-12": "bookworm", "debian-13": "trixie"}

// image is the name of the image that the machines share.
func (cfg Config) image() string { return cmp.Or(cfg.Image, Images[0]) }

// AllPackages are what the image has besides the usual packages, sorted: Packages, and what the profiles of the machines need.
func (cfg Config) AllPackages() []string {
	all := slices.Concat(cfg.Packages, profilePackages(cfg.Machines))
	slices.Sort(all)
	return slices.Compact(all)
}

// usual are installed on a machine before Quorate touches it, in addition to Debian's essential ones.
var usual = []string{
	"ca-certificates", "conntrack", "dbus", "ethtool", "haproxy", "iproute2", "iputils-ping", "keepalived", "kmod",
	"mount", "nftables", "openssh-server", "procps", "socat", "sudo", "systemd", "systemd-sysv", "util-linux",
}

// excluded are paths that only interactive users need.
var excluded = []string{"/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*"}

// files are what the image has beyond its packages.
var files = map[string]string{
	// Logins must be fast even with fifty parallel connections. Without PAM, no PAM module delays them; only keys are accepted
	// anyway.
	"etc/ssh/sshd_config.d/quorate.conf": `HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
MaxStartups 200:30:400
MaxSessions 200
SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
`,
	"etc/systemd/system/ssh.service.d/quorate.conf": `[Service]
ExecStartPre=
`,
	// Credentials cost each of these units a mount at boot, and lab machines get no credentials.
	"etc/systemd/system/systemd-sysctl.service.d/quorate.conf":         "[Service]\nLoadCredential=\n",
	"etc/systemd/system/systemd-tmpfiles-setup.service.d/quorate.conf": "[Service]\nLoadCredential=\n",
	"etc/systemd/journald.conf.d/quorate.conf": `[Journal]
Storage=persistent
SystemMaxUse=64M
ReadKMsg=no
Audit=no
`,
	"etc/systemd/system.conf.d/quorate.conf": `[Manager]
DefaultTimeoutStartSec=60s
DefaultTimeoutStopSec=30s
`,
}

// masked units either need hardware and a separate kernel, which lab machines do not have, or run background work that would
// distort a benchmark.
var masked = []string{
	"apt-daily-upgrade.timer", "apt-daily.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
	"fstrim.timer", "systemd-tmpfiles-clean.timer",
	"console-getty.service", "getty-static.service", "getty@tty1.service", "getty.target",
	"systemd-ask-password-console.path", "systemd-ask-password-wall.path",
	"dev-hugepages.mount", "proc-sys-fs-binfmt_misc.automount", "sys-fs-fuse-connections.mount",
	"sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
	"cryptsetup.target", "integritysetup.target", "veritysetup.target", "remote-fs.target",
	"kmod-static-nodes.service", "systemd-binfmt.service", "systemd-modules-load.service", "systemd-pcrphase-sysinit.service",
	"systemd-pcrphase.service", "systemd-pstore.service", "systemd-random-seed.service", "systemd-repart.service",
	"systemd-tmpfiles-setup-dev.service", "systemd-udevd.service",
	"systemd-firstboot.service", "systemd-machine-id-commit.service", "systemd-sysusers.service",
	"systemd-initctl.socket", "systemd-journald-audit.socket", "systemd-logind.service",
	"systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
}

// generators of units run at every boot, and find nothing on a machine without disks.
var generators = []string{
	"systemd-cryptsetup-generator", "systemd-debug-generator", "systemd-fstab-generator", "systemd-getty-generator",
	"systemd-gpt-auto-generator", "systemd-hibernate-resume-generator", "systemd-integritysetup-generator",
	"systemd-rc-local-generator", "systemd-run-generator", "systemd-system-update-generator", "systemd-sysv-generator",
	"systemd-veritysetup-generator",
}

// maskedIn and generatorsIn are more of those that only one image has. They are apart, because a change of what an image is made of rebuilds it,
// and all seeds that were made on it.
var (
	maskedIn = map[string][]string{"debian-13": {
		"ldconfig.service", "sshd-keygen.service", "systemd-hibernate-clear.service", "systemd-pcrmachine.service",
		"systemd-tmpfiles-setup-dev-early.service", "systemd-tpm2-setup-early.service", "systemd-tpm2-setup.service",
		"systemd-creds.socket", "systemd-pcrextend.socket", "systemd-pcrlock.socket", "systemd-sysext.socket",
	}}
	generatorsIn = map[string][]string{"debian-13": {"systemd-ssh-generator", "systemd-tpm2-generator"}}
)

func (cfg Config) masked() []string     { return slices.Concat(masked, maskedIn[cfg.image()]) }
func (cfg Config) generators() []string { return slices.Concat(generators, generatorsIn[cfg.image()]) }

// disabled units are installed for Quorate to configure and start.
var disabled = []string{"haproxy.service", "keepalived.service"}

// ofProfiles are units of packages that profiles need, which only these profiles start.
var ofProfiles = []string{"dnsmasq.service", "firewalld.service", "systemd-resolved.service", "ufw.service"}

// removed are files that must not be identical on all machines, and files that would set sysctls of the shared kernel.
var removed = []string{
	"etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf", "etc/ssh/ssh_host_*", "var/lib/dbus/machine-id",
	"usr/lib/sysctl.d/*", "etc/sysctl.d/*", "var/lib/apt/lists/*", "var/cache/apt/*", "var/cache/debconf/*", "var/log/*",
}

// customize turns the plain Debian root into the machines' image.
func customize(cfg Config, root string) error {
	for _, pattern := range removed {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	for path, content := range files {
		if err := put(filepath.Join(root, path), content); err != nil {
			return err
		}
	}
	for _, unit := range cfg.masked() {
		if err := mask(filepath.Join(root, "etc/systemd/system", unit)); err != nil {
			return err
		}
	}
	for _, generator := range cfg.generators() {
		if err := mask(filepath.Join(root, "etc/systemd/system-generators", generator)); err != nil {
			return err
		}
	}
	if err := disable(filepath.Join(root, "etc/systemd/system"), slices.Concat(disabled, ofProfiles)); err != nil {
		return err
	}
	// The package database is most of /var's files, and each machine has a copy of /var: it goes to
	// where the overlay shares it.
	database := filepath.Join(root, "usr/lib/sysimage/dpkg")
	if err := os.MkdirAll(filepath.Dir(database), 0o755); err != nil {
		return err
	}
	target := filepath.Join(root, "etc/systemd/system/default.target")
	return errors.Join(
		os.Rename(filepath.Join(root, "var/lib/dpkg"), database),
		os.Symlink("../../usr/lib/sysimage/dpkg", filepath.Join(root, "var/lib/dpkg")),
		os.Symlink("/usr/lib/systemd/system/multi-user.target", target),
		os.MkdirAll(filepath.Join(root, "lib/modules"), 0o755),
		os.MkdirAll(filepath.Join(root, "var/log/journal"), 0o755),
	)
}

func put(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

func mask(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink("/dev/null", path)
}

// disable removes the links through which targets, and programs on the bus, start units.
func disable(dir string, units []string) error {
	for _, pattern := range []string{"*", "*/*"} {
		links, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, link := range links {
			if unit, err := os.Readlink(link); err != nil || !slices.Contains(units, filepath.Base(unit)) {
				continue
			}
			if err := os.Remove(link); err != nil {
				return err
			}
		}
	}
	return nil
}
