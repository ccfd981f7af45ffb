package spec

import (
	"cmp"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
)

// sshArgs reads arguments for ssh: jump hosts, and what else a spec has a field for. What it does not know is named in a note.
func (r *ansibleReader) sshArgs(h *ansibleHost, name string, s *SSH) {
	text := r.text(h, name)
	if text == "" {
		return
	}
	words, ok := shellWords(text)
	if !ok {
		r.refuse(h.line, h.name+"."+name, "close the quote", "a quote is not closed")
		return
	}
	var unknown []string
	for _, a := range sshArguments(words) {
		if !a.into(s) {
			unknown = append(unknown, a.String())
		}
	}
	for _, u := range unknown {
		key := u
		if strings.HasPrefix(u, "-o ") { // these names have no case
			key = strings.ToLower(u)
		}
		switch key {
		case "-o stricthostkeychecking", "-o userknownhostsfile", "-o checkhostip", "-o updatehostkeys":
			r.note("%s of the inventory sets %s, which was left out: Quorate always verifies host keys, and asks before it trusts a new one.", name, u)
		case "-o controlmaster", "-o controlpersist", "-o controlpath", "-o serveraliveinterval", "-o serveralivecountmax", "-o tcpkeepalive", "-o connecttimeout", "-o identitiesonly",
			"-o forwardagent", "-o preferredauthentications", "-o loglevel", "-q", "-C", "-A", "-T", "-4": // which Quorate needs for nothing
		default:
			r.note("%s of the inventory sets %s, which the spec has no field for: it was left out.", name, u)
		}
	}
}

// sshArgument is one option of ssh, without the dash, and its value. Options of ssh_config(5) are called "o NAME".
type sshArgument struct{ name, value string }

func (a sshArgument) String() string {
	if a.name == "" {
		return a.value
	}
	return "-" + a.name
}

// withValue are the options of ssh that have a value (ssh(1)).
const withValue = "BbcDEeFIiJLlmOopQRSWw"

// sshArguments splits the arguments of ssh. What is none is called "".
func sshArguments(words []string) (out []sshArgument) {
	for i := 0; i < len(words); i++ {
		w := words[i]
		if !strings.HasPrefix(w, "-") || len(w) < 2 {
			out = append(out, sshArgument{value: w})
			continue
		}
		flag, value := w[1:2], w[2:]
		if !strings.Contains(withValue, flag) {
			for _, c := range w[1:] { // several of them may be written as one word
				out = append(out, sshArgument{name: string(c)})
			}
			continue
		}
		if value == "" && i+1 < len(words) {
			i++
			value = words[i]
		}
		if flag == "o" {
			name, rest, found := strings.Cut(value, "=")
			if !found {
				name, rest, _ = strings.Cut(value, " ")
			}
			flag, value = "o "+strings.TrimSpace(name), strings.TrimSpace(rest)
		}
		out = append(out, sshArgument{flag, value})
	}
	return out
}

// into puts an option into the section ssh of a host, unless something more specific is there. It says whether the spec has a field for it.
func (a sshArgument) into(s *SSH) bool {
	switch name := strings.ToLower(a.name); {
	case a.name == "J", name == "o proxyjump":
		if a.value == "none" {
			return true
		}
		if slices.ContainsFunc(strings.Split(a.value, ","), func(hop string) bool { _, _, _, ok := login(hop); return !ok }) {
			return false
		}
		fill(&s.Jump, a.value)
	case name == "o proxycommand":
		hops, keys, ok := throughSSH(a.value)
		if !ok {
			return false
		}
		if s.Jump == "" {
			s.Jump, s.JumpKeyFile = hops, keys
		}
	case a.name == "i", name == "o identityfile":
		fill(&s.KeyFile, a.value)
	case a.name == "l", name == "o user":
		fill(&s.User, a.value)
	case a.name == "p", name == "o port":
		n, err := strconv.Atoi(a.value)
		if err != nil {
			return false
		}
		fill(&s.Port, n)
	case name == "o userknownhostsfile":
		if a.value == "/dev/null" || a.value == "none" || strings.Contains(a.value, " ") {
			return false
		}
		fill(&s.KnownHostsFile, a.value)
	default:
		return false
	}
	return true
}

// throughSSH reads a ProxyCommand that only connects through another host, as it was written before there was ProxyJump:
// ssh -W %h:%p user@host. The way to that host may lead through others.
func throughSSH(command string) (hops, keys string, ok bool) {
	words, closed := shellWords(command)
	if !closed || len(words) == 0 || path.Base(words[0]) != "ssh" {
		return "", "", false
	}
	var s SSH
	target, forwards := "", false
	for _, a := range sshArguments(words[1:]) {
		switch {
		case a.name == "W":
			forwards = a.value == "%h:%p" || a.value == "[%h]:%p"
		case a.name == "" && target == "":
			target = a.value
		case a.name == "":
			return "", "", false // a command on the jump host
		default:
			a.into(&s) // what it does not know does not say where the way leads
		}
	}
	user, address, port, valid := login(target)
	if !forwards || !valid {
		return "", "", false
	}
	s.User, s.Port = cmp.Or(user, s.User), cmp.Or(port, s.Port)
	hops, keys = s.hop(address)
	return hops, keys, true
}

// hop is a host that is reached this way as a jump host, behind its own ones, and the keys of all of them.
func (s SSH) hop(address string) (hops, keys string) {
	if s.Port != 0 {
		address = net.JoinHostPort(address, strconv.Itoa(s.Port))
	}
	if s.User != "" {
		address = s.User + "@" + address
	}
	keys = OneForAll(append(s.JumpKeyFiles(), s.KeyFile))
	if s.Jump != "" {
		address = s.Jump + "," + address
	}
	return address, keys
}

// shellWords splits a text like a shell: at spaces, with quotes and backslashes. ok is false if a quote is not closed.
func shellWords(text string) (words []string, ok bool) { return splitWords(text, false) }

// splitWords is shellWords; with comments, an unquoted # ends the text.
func splitWords(text string, comments bool) (words []string, ok bool) {
	var word strings.Builder
	var quote rune
	inside, escaped := false, false
	for _, c := range text {
		switch {
		case escaped:
			if quote == '"' && c != '"' && c != '\\' {
				word.WriteRune('\\')
			}
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, inside = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, inside = c, true
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' || comments && c == '#':
			if inside {
				words = append(words, word.String())
				word.Reset()
				inside = false
			}
			if c == '#' && comments {
				return words, true
			}
		default:
			word.WriteRune(c)
			inside = true
		}
	}
	if inside {
		words = append(words, word.String())
	}
	return words, quote == 0 && !escaped
}
