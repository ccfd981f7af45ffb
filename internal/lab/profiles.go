package lab

// bastion is the profile of the one machine of a lab through which all others are reached.
const bastion = "bastion"

// Profiles are all that there are, in the order in which they are applied. The table in the documentation is made from them.
//
// A profile changes only its machine. What machines share with the computer below them cannot be a profile: its clock, its swap, its kernel.
var Profiles = []Profile{
	{
		Name: "hardened",
		What: "root cannot log in; the user `ops` has a password for sudo, whose PATH is short (`secure_path`); PAM sets limits and umask 077; sshd forwards nothing and accepts few sessions; /tmp and /var/tmp are noexec",
		Like: "servers set up by the CIS benchmark or a company's own rules, and cloud images with a user of their own",
		User: opsUser, Excludes: []string{bastion}, // which has to forward connections
		Files: []ProfileFile{
			withPAM,
			{"/etc/ssh/sshd_config.d/00-lab-hardened.conf", `PermitRootLogin no
AllowTcpForwarding no
AllowStreamLocalForwarding no
AllowAgentForwarding no
X11Forwarding no
MaxAuthTries 4
MaxSessions 10
`, 0o644},
			// Of this setting, the last one counts.
			{"/etc/ssh/sshd_config.d/zz-lab-hardened.conf", "MaxStartups 10:30:60\n", 0o644},
			// The PATH is that of the RHEL family.
			{"/etc/sudoers.d/lab-hardened", `Defaults secure_path="/sbin:/bin:/usr/sbin:/usr/bin"
Defaults use_pty
Defaults umask=0077
Defaults umask_override
` + opsUser + ` ALL=(ALL:ALL) ALL
`, 0o440},
			{"/etc/security/limits.d/lab-hardened.conf", "* hard core 0\nroot hard core 0\n* soft nofile 1024\n* hard nofile 4096\n", 0o644},
		},
		Boot: pamInMachine + `for f in common-session common-session-noninteractive; do
	grep -q umask=0077 /etc/pam.d/$f || echo 'session optional pam_umask.so umask=0077' >>/etc/pam.d/$f
done
id ` + opsUser + ` >/dev/null 2>&1 || useradd --create-home --shell /bin/bash ` + opsUser + `
install -d -m 700 -o ` + opsUser + ` -g ` + opsUser + ` /home/` + opsUser + `/.ssh
install -m 600 -o ` + opsUser + ` -g ` + opsUser + ` /root/.ssh/authorized_keys /home/` + opsUser + `/.ssh/authorized_keys
if [ -e ` + passwordFile + ` ]; then
	chpasswd <` + passwordFile + `
	rm ` + passwordFile + `
fi
for dir in /tmp /var/tmp; do
	mountpoint -q $dir || mount --bind $dir $dir
	mount -o remount,bind,nosuid,nodev,noexec $dir
done
`,
	},
	{
		Name: bastion,
		What: "this computer reaches only port 22 of this machine, and nothing of the others, which accept SSH only from here. The spec of the lab gets it as `ssh.jump`",
		Like: "private networks of clouds, where one machine has a public address",
		Boot: `nft -f - <<EOF
table inet lab_bastion
delete table inet lab_bastion
table inet lab_bastion {
	chain input {
		type filter hook input priority -10; policy accept;
		ip saddr $CALLER tcp dport 22 accept
		ip saddr $CALLER drop
	}
}
EOF
`,
	},
	{
		Name:  "firewall",
		What:  "nftables.service drops what is forwarded, and what comes in, except SSH and pings; a reload flushes the rules of all programs",
		Like:  "Debian servers with a firewall in /etc/nftables.conf",
		Units: []string{"sysinit.target/nftables.service"}, Excludes: []string{"ufw", "firewalld"},
		Files: []ProfileFile{{"/etc/nftables.conf", `#!/usr/sbin/nft -f

flush ruleset

table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		ct state established,related accept
		ip protocol icmp accept
		tcp dport 22 accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
	chain output {
		type filter hook output priority filter; policy accept;
	}
}
`, 0o755}},
	},
	{
		Name:     "ufw",
		What:     "ufw is on, and lets only SSH in",
		Like:     "Ubuntu servers on which somebody ran `ufw enable`",
		Packages: []string{"ufw"}, Excludes: []string{"firewall", "firewalld"},
		Boot: `sed -i 's/^IPV6=yes/IPV6=no/' /etc/default/ufw
grep -q '^ENABLED=yes' /etc/ufw/ufw.conf || ufw allow 22/tcp
ufw --force enable
`,
	},
	{
		Name:     "firewalld",
		What:     "firewalld is on, in its zone public, which lets only SSH in",
		Like:     "servers of the RHEL family, where it is on from the start",
		Packages: []string{"firewalld"}, Units: []string{"multi-user.target/firewalld.service"}, Excludes: []string{"firewall", "ufw"},
	},
	{
		Name:     "docker",
		What:     "Docker's rules, which drop what is forwarded, its bridge docker0 with 172.17.0.0/16, and its configuration of containerd, without the interface that kubelets use. Docker itself is not there",
		Like:     "servers with Docker, and those where only its rules are left",
		Excludes: []string{"ufw"}, // which has its rules in the same table
		Files:    []ProfileFile{{"/etc/containerd/config.toml", "disabled_plugins = [\"cri\"]\n", 0o644}},
		Boot: `ip link show docker0 >/dev/null 2>&1 || ip link add docker0 type bridge
ip address replace 172.17.0.1/16 dev docker0
ip link set docker0 up
nft -f - <<'EOF'
table ip filter
delete table ip filter
table ip filter {
	chain DOCKER {
	}
	chain DOCKER-ISOLATION-STAGE-2 {
		oifname "docker0" counter drop
		counter return
	}
	chain DOCKER-ISOLATION-STAGE-1 {
		iifname "docker0" oifname != "docker0" counter jump DOCKER-ISOLATION-STAGE-2
		counter return
	}
	chain DOCKER-USER {
		counter return
	}
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		counter jump DOCKER-USER
		counter jump DOCKER-ISOLATION-STAGE-1
		oifname "docker0" ct state established,related counter accept
		oifname "docker0" counter jump DOCKER
		iifname "docker0" oifname != "docker0" counter accept
		iifname "docker0" oifname "docker0" counter accept
	}
}
table ip nat
delete table ip nat
table ip nat {
	chain POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 172.17.0.0/16 oifname != "docker0" counter masquerade
	}
}
EOF
`,
	},
	{
		Name:     "second-nic",
		What:     "a second interface, eth1, in a network that all machines with this profile share: 10.97.0.0/24, a part of the default range of Services",
		Like:     "servers with a network for storage or backups, and companies that use all of 10.0.0.0/8",
		MoreNICs: 1,
	},
	{
		Name:     "three-nics",
		What:     "two more interfaces in networks that all machines with this profile share: eth1 in 10.97.0.0/24 and eth2 in 10.98.0.0/24, parts of the default range of Services",
		Like:     "servers with a front network for clients and another one for the packets of pods",
		MoreNICs: 2,
	},
	{
		Name:     "own-resolver",
		What:     "dnsmasq on 127.0.0.1 is the only DNS server",
		Like:     "servers with a local cache, such as dnsmasq or unbound",
		Packages: []string{"dnsmasq"}, Units: []string{"multi-user.target/dnsmasq.service"}, Excludes: []string{"resolved"},
		Files: []ProfileFile{
			{"/etc/dnsmasq.d/lab.conf", "listen-address=127.0.0.1\nbind-interfaces\nno-resolv\n", 0o644},
			{"/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", 0o644},
			{"/etc/systemd/system/dnsmasq.service.d/lab.conf", "[Unit]\nBefore=ssh.service\n", 0o644},
		},
	},
	{
		Name:     "resolved",
		What:     "systemd-resolved answers on 127.0.0.53, and /etc/resolv.conf is a link to its file",
		Like:     "Ubuntu, and Debian with the package systemd-resolved",
		Packages: []string{"systemd-resolved"}, Units: []string{"sysinit.target/systemd-resolved.service"}, Excludes: []string{"own-resolver"},
		Files: []ProfileFile{{"/etc/systemd/resolved.conf.d/lab.conf", "[Resolve]\nDNS={address}\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\n", 0o644}},
		Boot:  "ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf\n",
	},
	{
		Name: "cloud-hosts",
		What: "/etc/hosts is written from a template at each boot, as cloud-init does with `manage_etc_hosts`. cloud-init itself is not there",
		Like: "cloud images whose user data manages /etc/hosts",
		Files: []ProfileFile{
			{"/usr/bin/cloud-init", "#!/bin/sh\necho '/usr/bin/cloud-init 22.4.2'\n", 0o755}, // what preflight looks for
			{"/etc/cloud/cloud.cfg", "manage_etc_hosts: true\n", 0o644},
		},
		Boot: `name=$(cat /etc/hostname)
cat >/etc/hosts <<EOF
# Your system has configured 'manage_etc_hosts' as True.
127.0.1.1 $name.lab.example $name
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
EOF
`,
	},
	{
		Name: "proxy",
		What: "sessions, sudo, and the services of systemd get a proxy for http and https that does not answer; NO_PROXY excepts only localhost",
		Like: "servers of companies whose way out is a proxy",
		Files: []ProfileFile{
			withPAM,
			{"/etc/environment", "http_proxy=" + proxyAddress + "\nhttps_proxy=" + proxyAddress + "\nHTTP_PROXY=" + proxyAddress + "\nHTTPS_PROXY=" + proxyAddress + "\nno_proxy=" + noProxy + "\nNO_PROXY=" + noProxy + "\n", 0o644},
			{"/etc/sudoers.d/lab-proxy", "Defaults env_keep += \"http_proxy https_proxy HTTP_PROXY HTTPS_PROXY no_proxy NO_PROXY\"\n", 0o440},
			{"/etc/systemd/system.conf.d/lab-proxy.conf", "[Manager]\nDefaultEnvironment=HTTP_PROXY=" + proxyAddress + " HTTPS_PROXY=" + proxyAddress + " NO_PROXY=" + noProxy + "\n", 0o644},
		},
		Boot: pamInMachine,
	},
	{
		Name: "noexec",
		What: "/opt and /home are mounts of their own, with noexec and nodev",
		Like: "servers partitioned by a hardening guide",
		Boot: `for dir in /opt /home; do
	mountpoint -q $dir || mount --bind $dir $dir
	mount -o remount,bind,nosuid,nodev,noexec $dir
done
`,
	},
	{
		Name: "noisy-shell",
		What: "sshd has a banner, and the login shell prints the title of a window, without a line break, before each command",
		Like: "servers with a company's banner and shared dotfiles",
		Files: []ProfileFile{
			{"/etc/ssh/sshd_config.d/00-lab-banner.conf", "Banner /etc/issue.net\n", 0o644},
			{"/etc/issue.net", "Authorized users only. All activity is logged.\n", 0o644},
			{"/root/.bashrc", "printf '\\033]0;%s\\007' \"$HOSTNAME\"\n", 0o644},
		},
		Boot: "[ ! -d /home/" + opsUser + " ] || install -m 644 -o " + opsUser + " -g " + opsUser + " /root/.bashrc /home/" + opsUser + "/.bashrc\n",
	},
}

const (
	opsUser      = "ops"
	proxyAddress = "http://198.51.100.1:3128" // for documentation (RFC 5737): the lab's gateway says that it is unreachable
	noProxy      = "localhost,127.0.0.1"
)

// withPAM has sshd use PAM, as it does outside of labs. Only the first SetEnv of sshd's configuration counts: this one hides the PATH that the
// image sets, so that PAM and the shell determine it.
var withPAM = ProfileFile{"/etc/ssh/sshd_config.d/00-lab-pam.conf", "UsePAM yes\nSetEnv LAB=yes\n", 0o644}

// pamInMachine lets a session begin although it has the login UID of a session of the computer below, which cannot be changed.
const pamInMachine = `sed -i 's/^\(session *\)required\( *pam_loginuid\)/\1optional\2/' /etc/pam.d/sshd
`

// behindBastion is for the machines that are reached through the bastion. Clients in the lab still reach their other ports.
const behindBastion = `nft -f - <<EOF
table inet lab_bastion
delete table inet lab_bastion
table inet lab_bastion {
	chain input {
		type filter hook input priority -10; policy accept;
		iifname "lo" accept
		ip saddr $CALLER drop
		tcp dport 22 ip saddr != $BASTION drop
	}
}
EOF
`
