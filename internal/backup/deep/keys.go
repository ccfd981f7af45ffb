package deep

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/encryption"
)

// defaultPrefix is where API servers keep their keys in etcd.
const defaultPrefix = "/registry"

// keys are the keys in etcd, and whether something accounts for them.
type keys struct {
	prefix string // ends with a slash
	// sorted are all of them, and claimed whether something accounts for them.
	sorted  []string
	claimed map[string]bool
	// kms has the keys whose values a KMS provider encrypted, with its mark.
	kms map[string]string
}

func newKeys(prefix string) *keys {
	return &keys{prefix: "/" + strings.Trim(cmp.Or(prefix, defaultPrefix), "/") + "/", claimed: map[string]bool{}, kms: map[string]string{}}
}

// add adds a key. They come in their order.
func (k *keys) add(key string, value []byte) {
	k.sorted = append(k.sorted, key)
	k.claimed[key] = false
	if mark := encryption.Mark(value); encryption.IsKMS(mark) {
		k.kms[key] = mark
	}
}

// places are where API servers keep kinds of objects that are not below their own names.
var places = map[string]string{
	"replicationcontrollers": "controllers", "endpoints": "services/endpoints", "nodes": "minions", "services": "services/specs", "ingresses.networking.k8s.io": "ingress",
}

// placesOf are where the objects of a kind may be, below the prefix. Custom resources have only one place; of others, it depends on
// which part of the API server serves them.
func placesOf(group, resource string, custom bool) []string {
	own := group + "/" + resource
	if custom {
		return []string{own}
	}
	name := resource
	if group != "" {
		name += "." + group
	}
	if at, has := places[name]; has {
		return []string{at}
	}
	if group == "" {
		return []string{resource}
	}
	return []string{resource, own}
}

// claim accounts for an object that is in one of the places. It is false if there is none in etcd.
func (k *keys) claim(places []string, namespace, name string) bool {
	below := name
	if namespace != "" {
		below = namespace + "/" + name
	}
	for _, at := range places {
		key := k.prefix + at + "/" + below
		if _, has := k.claimed[key]; has {
			k.claimed[key] = true
			return true
		}
	}
	return false
}

// left are the keys in the places that nobody accounted for yet, as far as objects with or without a namespace have such keys.
func (k *keys) left(places []string, namespaced bool) (out []string) {
	slashes := 0
	if namespaced {
		slashes = 1
	}
	for _, at := range places {
		below := k.prefix + at + "/"
		from, _ := slices.BinarySearch(k.sorted, below)
		for _, key := range k.sorted[from:] {
			name, ok := strings.CutPrefix(key, below)
			if !ok {
				break
			}
			if !k.claimed[key] && strings.Count(name, "/") == slashes {
				out = append(out, key)
			}
		}
	}
	return out
}

// internals are the places of what API servers keep in etcd without any kind: allocations, their own addresses, and checks.
var internals = []string{"ranges/", "masterleases/", "peerserverleases/", "health"}

// compactionKey is where API servers agree on the revision to compact etcd at.
const compactionKey = "compact_rev_key"

// unclaimed are the keys that no kind accounts for, by what their names begin with, and how many are no objects.
func (k *keys) unclaimed() (out []Unclaimed, internal int) {
	found := map[string]Unclaimed{}
	for _, key := range k.sorted {
		if k.claimed[key] {
			continue
		}
		below, ours := strings.CutPrefix(key, k.prefix)
		if ours && slices.ContainsFunc(internals, func(at string) bool { return strings.HasPrefix(below, at) }) || key == compactionKey {
			internal++
			continue
		}
		at := beginning(key, below, ours)
		u := found[at]
		u.Below = at
		u.Keys++
		u.Example = cmp.Or(u.Example, key)
		found[at] = u
	}
	for _, at := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[at])
	}
	return out, internal
}

// beginning is the part of a key that others of the same kind have, too: a group has a dot in its name, and a resource has none.
func beginning(key, below string, ours bool) string {
	if !ours {
		first, _, _ := strings.Cut(strings.TrimPrefix(key, "/"), "/")
		if strings.HasPrefix(key, "/") {
			first = "/" + first
		}
		return first
	}
	first, rest, _ := strings.Cut(below, "/")
	if second, _, more := strings.Cut(rest, "/"); strings.Contains(first, ".") && more {
		first += "/" + second
	}
	return strings.TrimSuffix(key, below) + first
}
