package clients

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// The ways by which clients go, which begin the names of their kinds. docs/drill.md describes them.
const (
	endpoint          = "endpoint"
	kubernetesService = "kubernetes-service"
	localAPIServer    = "local-api-server"
	webService        = "service"
	nodePort          = "node-port"
	dns               = "dns"
	pod               = "pod"
)

// OwnServer begins the paths of clients that use one API server and no other.
const OwnServer = "API server of "

const (
	// streams is how many HTTP/2 connections to the endpoint read. Load balancers hand them out in turn, so each API server has some.
	streams = 6
	// listPace is the time between two lists.
	listPace = time.Second
	// registers is how many objects are read and written together, and registerPace the time between two requests of one of the clients that
	// do that.
	registers    = 2
	registerPace = 400 * time.Millisecond
	// mostNodes is how many nodes have clients of their own: more of them would measure how much load a cluster stands.
	mostNodes = 32
	// lookedUp is what clients look up. Every cluster of kubeadm's has it, whatever runs in it.
	lookedUp = "kubernetes.default.svc.cluster.local."
)

// Kind names what a client does and how, as "endpoint/read/new". All nodes' clients of a kind have it in common.
func Kind(c probe.Client) string {
	kind := cmp.Or(c.Way, c.Path) + "/" + string(c.Operation)
	if c.Connection != "" {
		kind += "/" + string(c.Connection)
	}
	return kind
}

// On says that a client runs in a pod of one of the hosts, or uses nothing but one of them: while that host is away, the client fails, and
// that says nothing of the cluster.
func On(c probe.Client, hosts []string) bool {
	return c.Host != "" && slices.Contains(hosts, c.Host) || c.Peer != "" && slices.Contains(hosts, c.Peer)
}

// endpointClients use the endpoint. New connections read and write as often as failover is measured; everything else goes at the pace of
// streams. One client counts the object up that others watch: two would overtake each other. Its connections are new, so that no kept one
// delays it.
func endpointClients(o Options) (out []probe.Client) {
	add := func(op probe.Operation, c probe.Connection, pace time.Duration) {
		out = append(out, probe.Client{Path: endpoint, Operation: op, Connection: c, Pace: pace})
	}
	add(probe.Read, probe.New, o.Pace)
	add(probe.Read, probe.Kept, 0)
	add(probe.Write, probe.New, o.Pace)
	add(probe.Write, probe.HTTP2, 0)
	add(probe.CachedRead, probe.HTTP2, 0)
	add(probe.Beat, probe.New, 0)
	add(probe.Watch, probe.Kept, 0)
	add(probe.Watch, probe.HTTP2, 0)
	if o.Few {
		add(probe.Read, probe.HTTP2, 0)
		if o.Every {
			out = append(out, more(out, everyUse(probe.Client{Path: endpoint}))...)
		}
		return out
	}
	add(probe.CachedRead, probe.New, 0)
	add(probe.CachedRead, probe.Kept, 0)
	add(probe.Write, probe.Kept, 0)
	add(probe.List, probe.New, listPace)
	for n := range streams {
		out = append(out, probe.Client{Path: fmt.Sprintf("%s, connection %d", endpoint, n+1), Way: endpoint, Operation: probe.Read, Connection: probe.HTTP2})
	}
	return out
}

// registerClients read and write a few objects together. Their history shows whether reads and writes were consistent.
func registerClients() (out []probe.Client) {
	for key := range registers {
		for _, c := range []probe.Connection{probe.New, probe.Kept, probe.HTTP2} {
			out = append(out, probe.Client{Path: fmt.Sprintf("%s, register %d", endpoint, key+1), Way: endpoint, Operation: probe.Register, Connection: c, Key: key, Pace: registerPace})
		}
	}
	return out
}

// isInstrument says that a client only serves others: what the one that counts up has done is what others watch, and what those did that read and
// write together is judged by its history. Each waits for the answer to one request before it sends the next one, so its gaps
// cannot be compared with those of the other clients.
func isInstrument(c probe.Client) bool {
	return c.Operation == probe.Beat || c.Operation == probe.Register
}

// nodePortClients use the NodePort of a node, from outside.
func nodePortClients(o Options, h spec.Host, port int32) []probe.Client {
	return []probe.Client{{Path: "NodePort of " + h.Name, Way: nodePort, Connection: probe.New, Operation: probe.Get, Host: h.Name, Pace: o.PodPace,
		Address: "http://" + net.JoinHostPort(h.Address, strconv.Itoa(int(port)))}}
}

// readyClients learn when the API server of a control plane stops.
func readyClients(h spec.Host) []probe.Client {
	return []probe.Client{{Path: OwnServer + h.Name, Way: localAPIServer, Connection: probe.Kept, Operation: probe.Ready, Host: h.Name, Address: serverOf(h)}}
}

func serverOf(h spec.Host) string {
	return "https://" + net.JoinHostPort(h.Address, hostconfig.APIPort)
}

// podClients are the clients in the pod of a node. service is the address of the workload's Service, and peer the node whose pod they use as
// well; none if it has no name.
func podClients(h, peer spec.Host, service string) (out []probe.Client) {
	add := func(path, way string, o probe.Operation, c probe.Connection, address string) {
		out = append(out, probe.Client{Path: path + h.Name, Way: way, Connection: c, Operation: o, Address: address, Host: h.Name})
	}
	const api = serviceIn
	add(api, kubernetesService, probe.Read, probe.New, "")
	add(api, kubernetesService, probe.Read, probe.HTTP2, "")
	add(api, kubernetesService, probe.Watch, probe.HTTP2, "")
	if h.Has(spec.RoleControlPlane) {
		add(OwnServer, localAPIServer, probe.Read, probe.Kept, serverOf(h))
	} else {
		add(api, kubernetesService, probe.Write, probe.HTTP2, "")
	}
	const web = "Service web, pod on "
	add(web, webService, probe.Get, probe.New, "http://"+service)
	add(web, webService, probe.Echo, probe.Kept, net.JoinHostPort(service, strconv.Itoa(echoPort)))
	add("DNS, pod on ", dns, probe.Lookup, "", lookedUp)
	if peer.Name != "" {
		out = append(out, probe.Client{Path: "pod on " + peer.Name + ", pod on " + h.Name, Way: pod, Connection: probe.New, Operation: probe.Get, Host: h.Name, Peer: peer.Name,
			Address: "http://" + net.JoinHostPort(peerName(peer.Name), strconv.Itoa(webPort))})
	}
	return out
}

// serviceIn begins the paths of clients in pods that use the Service of the API.
const serviceIn = "Service kubernetes, pod on "

// everyUse are all operations on the API on every kind of connection, as far as they make sense together. A client that uses one API server and no other
// holds no watch: while that server is replaced, there is nothing that it could resume the watch with.
func everyUse(c probe.Client) (out []probe.Client) {
	for _, o := range []probe.Operation{probe.Read, probe.CachedRead, probe.Write, probe.Watch} {
		for _, connection := range []probe.Connection{probe.New, probe.Kept, probe.HTTP2} {
			if o == probe.Watch && (connection == probe.New || c.Way == localAPIServer) {
				continue
			}
			c.Operation, c.Connection = o, connection
			out = append(out, c)
		}
	}
	return out
}

// apiClientsIn are those in the pod of a node that use the API in every way: through its Service, and on a control plane also its own API server.
func apiClientsIn(h spec.Host) []probe.Client {
	out := everyUse(probe.Client{Path: serviceIn + h.Name, Way: kubernetesService, Host: h.Name})
	if h.Has(spec.RoleControlPlane) {
		out = append(out, everyUse(probe.Client{Path: OwnServer + h.Name, Way: localAPIServer, Host: h.Name, Address: serverOf(h)})...)
	}
	return out
}

// more are the clients that are not among those that there are already.
func more(there, clients []probe.Client) []probe.Client {
	return slices.DeleteFunc(clients, func(c probe.Client) bool {
		return slices.ContainsFunc(there, func(other probe.Client) bool { return other.String() == c.String() })
	})
}

// Kinds are the kinds of clients whose results a drill reports: those outside of the cluster, and with pods those in it.
func Kinds(pods bool) (out []string) {
	all := endpointClients(Options{})
	if pods {
		controlPlane, worker := spec.Host{Name: "a", Roles: []string{spec.RoleControlPlane}}, spec.Host{Name: "b", Roles: []string{spec.RoleWorker}}
		all = slices.Concat(all, nodePortClients(Options{}, worker, 0), podClients(controlPlane, worker, ""), podClients(worker, controlPlane, ""))
	}
	for _, c := range all {
		if kind := Kind(c); !isInstrument(c) && !slices.Contains(out, kind) {
			out = append(out, kind)
		}
	}
	return out
}

// chosen are the nodes that have clients of their own: all, or all control planes and workers of every zone in turn.
func chosen(c *spec.Cluster, most int) (out []spec.Host) {
	var zones []string
	workers := map[string][]spec.Host{}
	take := map[string]bool{}
	for _, h := range c.Spec.Hosts {
		switch {
		case h.Has(spec.RoleControlPlane):
			take[h.Name] = true
		case h.IsNode():
			if workers[h.Zone] == nil {
				zones = append(zones, h.Zone)
			}
			workers[h.Zone] = append(workers[h.Zone], h)
		}
	}
	for turn := 0; len(zones) > 0 && len(take) < most; turn++ {
		zones = slices.DeleteFunc(zones, func(zone string) bool { return turn >= len(workers[zone]) })
		for _, zone := range zones {
			if len(take) < most {
				take[workers[zone][turn].Name] = true
			}
		}
	}
	for _, h := range c.Spec.Hosts {
		if take[h.Name] {
			out = append(out, h)
		}
	}
	return out
}

// peerOf is the node whose pod the clients of a node use: the next one, so that every node is used by one.
func peerOf(nodes []spec.Host, h spec.Host) spec.Host {
	i := slices.IndexFunc(nodes, func(n spec.Host) bool { return n.Name == h.Name })
	if i < 0 || len(nodes) < 2 {
		return spec.Host{}
	}
	return nodes[(i+1)%len(nodes)]
}
