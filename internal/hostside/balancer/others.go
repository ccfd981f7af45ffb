package balancer

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/files"
)

var ownHeader = regexp.MustCompile(`(?m)^` + files.WrittenBy + `(\S+)\. `)

// whoBalances reports whether Quorate wrote a load balancer's configuration, and for which cluster.
func whoBalances(haproxy, keepalived string) (cluster string, others *facts.OthersBalancing) {
	if m := ownHeader.FindStringSubmatch(haproxy); m != nil {
		return m[1], nil
	}
	if haproxy == "" && keepalived == "" {
		return "", nil
	}
	others = &facts.OthersBalancing{}
	readHAProxy(haproxy, others)
	readKeepalived(keepalived, others)
	return "", others
}

// sections are the keywords that start those sections of HAProxy's configuration that matter here. Any other keyword at the
// beginning of a line belongs to the previous section.
var sections = []string{"global", "defaults", "frontend", "listen", "backend", "peers", "resolvers", "userlist", "program", "mailers", "cache", "ring", "http-errors"}

func readHAProxy(text string, out *facts.OthersBalancing) {
	name, statistics, routes := "", false, false
	var binds []string
	end := func() {
		for _, b := range binds {
			out.Services = append(out.Services, facts.Service{Name: name, Bind: b, Statistics: statistics && !routes})
		}
		binds, statistics, routes = nil, false, false
	}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		serves := strings.HasPrefix(name, "frontend") || strings.HasPrefix(name, "listen")
		switch {
		case slices.Contains(sections, f[0]):
			end()
			name = strings.Join(f[:min(len(f), 2)], " ")
		case len(f) < 2:
		case f[0] == "bind" && serves:
			binds = append(binds, strings.Split(f[1], ",")...)
		case f[0] == "server" && len(f) > 2:
			routes = true
			out.Servers = append(out.Servers, f[2])
		case f[0] == "server-template" && len(f) > 3:
			routes = true
			out.Servers = append(out.Servers, f[3])
		case f[0] == "default_backend", f[0] == "use_backend":
			routes = true // it may also have a statistics page
		case f[0] == "monitor-uri", f[0] == "stats" && serves, strings.Contains(line, "use-service prometheus-exporter"):
			statistics = true
		}
	}
	end()
}

func readKeepalived(text string, out *facts.OthersBalancing) {
	block := ""
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#!"); i >= 0 {
			line = line[:i]
		}
		// A block on one line is read like a block on several lines.
		for _, part := range strings.FieldsFunc(strings.NewReplacer("{", "\n{\n", "}", "\n}\n").Replace(line), func(r rune) bool { return r == '\n' }) {
			f := strings.Fields(part)
			switch {
			case len(f) == 0 || f[0] == "{":
			case f[0] == "}":
				block = ""
			case strings.HasPrefix(f[0], "virtual_ipaddress"):
				block = f[0]
				f = f[1:]
				fallthrough
			case block != "":
				for _, word := range f {
					ip, _, _ := strings.Cut(word, "/")
					if _, err := netip.ParseAddr(ip); err == nil {
						out.VirtualIPs = append(out.VirtualIPs, ip)
					}
				}
			case f[0] == "virtual_server", f[0] == "virtual_server_group", f[0] == "include":
				out.Services = append(out.Services, facts.Service{Name: "keepalived's " + strings.Join(f, " ")})
			}
		}
	}
}

// peers are the addresses of the other load balancers in keepalived's configuration.
func peers(keepalived string) (out []string) {
	inside := false
	for line := range strings.Lines(keepalived) {
		if i := strings.IndexAny(line, "#!"); i >= 0 {
			line = line[:i]
		}
		for _, word := range strings.Fields(strings.NewReplacer("{", " { ", "}", " } ").Replace(line)) {
			switch _, err := netip.ParseAddr(word); {
			case word == "unicast_peer":
				inside = true
			case word == "}":
				inside = false
			case inside && err == nil && !slices.Contains(out, word): // each virtual IP has the same peers
				out = append(out, word)
			}
		}
	}
	return out
}
