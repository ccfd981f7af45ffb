package byhand

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// The delimiters of the here-documents for a host's commands and for files.
const (
	hostMark = "EOF"
	fileMark = "END"
)

// width is the width of the script's comments.
const width = 118

// Script renders the guide as a shell script, which can be run on the operator's machine, or read and pasted host by host.
func (t *Transcript) Script(out io.Writer) error {
	s := &script{}
	s.head(t)
	for i, section := range t.Sections {
		title := fmt.Sprintf("%d. %s", i+1, section.Title)
		s.line("")
		s.line("# " + strings.Repeat("-", width-2))
		s.comment(title)
		s.comment(section.Reason)
		s.line("# " + strings.Repeat("-", width-2))
		s.line("say %s", ui.Quote(title))
		for _, step := range section.Steps {
			s.step(step, section.AtOnce)
		}
		if section.AtOnce {
			s.line("")
			s.line("finish")
		}
	}
	_, err := io.WriteString(out, s.b.String())
	return err
}

type script struct{ b strings.Builder }

func (s *script) line(format string, args ...any) {
	if len(args) > 0 {
		format = fmt.Sprintf(format, args...)
	}
	s.b.WriteString(format + "\n")
}

func (s *script) comment(text string) {
	for _, line := range ui.Wrap(text, width-2) {
		s.line("# " + line)
	}
}

func (s *script) head(t *Transcript) {
	s.line("#!/usr/bin/env bash")
	s.comment(fmt.Sprintf("The cluster %s, Kubernetes %s, built by hand: what quorate plan --by-hand prints for exactly this spec.", t.Cluster, t.Kubernetes))
	s.line("#")
	s.comment("Run it with bash on a machine that can reach the hosts over SSH, or paste it host by host: the lines between <<'" + hostMark + "' and " + hostMark +
		" are the commands to run as root on the named host. It creates a new cluster; kubeadm refuses to run on hosts that already belong to one.")
	s.line("#")
	s.line("# Prerequisites:")
	for _, a := range t.Assumes {
		for i, line := range ui.Wrap(a, width-4) {
			s.line("# %s %s", map[bool]string{true: "-", false: " "}[i == 0], line)
		}
	}
	s.line("set -euo pipefail")
	s.line("")
	s.line("# run HOST COMMAND: run a command as root on a host, over SSH.")
	s.line("run() {")
	s.line("    local host=$1")
	s.line("    shift")
	s.line("    case $host in")
	for _, h := range t.hosts {
		s.line("    %s) %s \"$@\" ;;", h.Name, ssh(h))
	}
	s.line("    *) echo \"unknown host $host\" >&2; return 1 ;;")
	s.line("    esac")
	s.line("}")
	s.line("%s", helpers)
}

// helpers are the functions of the script. A block is read completely before its first command runs, so that no command can
// consume the rest as its input. The values that kubeadm init has printed are part of the block, which keeps them out of arguments.
const helpers = `
# on HOST <<'EOF' … EOF: run commands as root on a host. token, hash, and key are the values that kubeadm init has printed.
printed=
on() { { printf '%s\n{\n' "$printed"; cat; echo '} </dev/null'; } | run "$1" bash -euo pipefail; }

# copy FROM TO FILE…: copy files from one host to the same paths on another.
copy() {
    local from=$1 to=$2
    shift 2
    run "$from" tar -C / -c "$@" </dev/null | run "$to" tar -C / -x
}

# put HOST FILE: write standard input to a file that only root can read.
put() { run "$1" install -D -m 600 /dev/stdin "$2"; }

# start COMMAND …: run a command in the background. finish: wait for all of them, and fail if one has failed.
started=()
start() { { "$@" <&3 & } 3<&0; started+=("$!"); }
finish() {
    local one status=0
    for one in "${started[@]}"; do wait "$one" || status=$?; done
    started=()
    return "$status"
}

say() { printf '\n== %s\n' "$*" >&2; }`

// ssh is the command that logs in to a host, according to the spec.
func ssh(h spec.Host) string {
	command := "ssh" + access(h.SSH)
	if h.SSH.Port != spec.DefaultSSHPort {
		command += " -p " + strconv.Itoa(h.SSH.Port)
	}
	if h.SSH.Jump != "" {
		to := "%h:%p"
		if family(h.SSHAddress()) == "-6" {
			to = "[%h]:%p"
		}
		command += " -o " + ui.Quote("ProxyCommand="+through(h.SSH, to))
	}
	command += " " + ui.Quote(h.SSH.User+"@"+h.SSHAddress())
	if h.SSH.User != spec.DefaultSSHUser {
		command += " sudo"
	}
	return command
}

// access is the options for the key and for the known hosts file, for a host and for its jump host.
func access(s spec.SSH) string {
	out := ""
	if s.KeyFile != "" {
		out += " -o IdentitiesOnly=yes -i " + local(s.KeyFile)
	}
	if s.KnownHostsFile != "" {
		out += " -o " + ui.Quote("UserKnownHostsFile="+s.KnownHostsFile)
	}
	return out
}

// through is the command that connects to a host through its jump hosts. Each of them is user@address:port; what is left out is the host's own user, and
// port 22. Each is reached through the one before it, with a key of its own, which -J could not have.
func through(s spec.SSH, to string) (command string) {
	hops, keys := strings.Split(s.Jump, ","), s.JumpKeyFiles()
	for i, hop := range hops {
		user, address, port := hopOf(s, hop)
		via := s
		via.KeyFile = keys[i]
		next := to
		if i < len(hops)-1 {
			_, nextAddress, nextPort := hopOf(s, hops[i+1])
			next = ui.Quote(net.JoinHostPort(nextAddress, nextPort))
		}
		before := ""
		if command != "" {
			before = " -o " + ui.Quote("ProxyCommand="+command)
		}
		command = "ssh" + access(via) + before + " -W " + next
		if port != strconv.Itoa(spec.DefaultSSHPort) {
			command += " -p " + port
		}
		command += " " + ui.Quote(user+"@"+address)
	}
	return command
}

// hopOf reads one jump host.
func hopOf(s spec.SSH, hop string) (user, address, port string) {
	user, address = s.User, hop
	if u, rest, given := strings.Cut(hop, "@"); given {
		user, address = u, rest
	}
	if host, p, err := net.SplitHostPort(address); err == nil {
		return user, host, p
	}
	return user, strings.Trim(address, "[]"), strconv.Itoa(spec.DefaultSSHPort)
}

// local is a path on the operator's machine, whose ~ the shell fills in.
func local(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return "~/" + ui.Quote(rest)
	}
	return ui.Quote(path)
}

func (s *script) step(step Step, atOnce bool) {
	s.line("")
	s.comment(strings.Join(step.Hosts, ", ") + ": " + step.Title)
	start := ""
	if atOnce {
		start = "start "
	}
	s.bring(step, start)
	switch {
	case len(step.Actions) == 0:
	case step.PrintsJoin:
		s.line("join=$(on %s <<'%s' | tee >(sed -E 's/(--token|--certificate-key) [^ ]+/\\1 .../' >&2)", step.Hosts[0], hostMark)
		s.actions(step.Actions)
		s.line(hostMark)
		s.line(")")
		s.line(learn)
	case len(step.Hosts) == 1:
		s.line("%son %s <<'%s'", start, step.Hosts[0], hostMark)
		s.actions(step.Actions)
		s.line(hostMark)
	default:
		s.line("for host in %s; do", strings.Join(step.Hosts, " "))
		s.line("start on \"$host\" <<'%s'", hostMark)
		s.actions(step.Actions)
		s.line(hostMark)
		s.line("done")
		if !atOnce {
			s.line("finish")
		}
	}
}

// learn extracts the join parameters from the output of kubeadm init.
const learn = `word() { grep -oE -m 1 -e "--$1 [^ ]+" <<<"$join" | cut -d ' ' -f 2; }
token=$(word token)
hash=$(word discovery-token-ca-cert-hash)
key=$(word certificate-key)
printed="token=$token hash=$hash key=$key"`

func (s *script) bring(step Step, start string) {
	to := step.Hosts[0]
	paths := map[string]string{}
	var from []string
	for _, b := range step.Bring {
		if b.From == "" {
			s.line("%sput %s %s <%s", start, to, b.Path, local(b.Local))
			continue
		}
		if paths[b.From] == "" {
			from = append(from, b.From)
		}
		paths[b.From] += " " + strings.TrimPrefix(b.Path, "/")
	}
	for _, f := range from {
		s.line("%scopy %s %s%s", start, f, to, paths[f])
	}
}

func (s *script) actions(actions []Action) {
	for i, a := range actions {
		if i > 0 {
			s.line("")
		}
		s.comment(a.Reason)
		for _, f := range a.Files {
			s.file(f)
		}
		for _, c := range a.Commands {
			s.line("%s", c)
		}
	}
}

func (s *script) file(f File) {
	mark := "'" + fileMark + "'"
	if f.Expand {
		mark = fileMark
	}
	if f.Append {
		s.line("cat >>%s <<%s", f.Path, mark)
	} else {
		s.line("install -D -m %s /dev/stdin %s <<%s", f.Mode, f.Path, mark)
	}
	s.line("%s", strings.TrimSuffix(f.Content, "\n"))
	s.line(fileMark)
}
