package etcd

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
)

// StoredRequest asks for objects of some types.
type StoredRequest struct {
	Endpoints []string
	// Types are versions in which objects may be stored.
	Types []StoredType
}

// StoredType is a version of some kinds of objects.
type StoredType struct {
	// APIVersion is group/version.
	APIVersion string
	// Resources are the plural names of the kinds; objects of others are not looked for.
	Resources []string
}

// StoredObject is an object as it is stored.
type StoredObject struct {
	APIVersion string `json:"apiVersion"`
	// Key is its key in etcd, without the prefix that all objects have.
	Key string `json:"key"`
}

const registry = "/registry/"

// page is the number of keys per request.
const page = 1000

// Stored lists the objects that are stored in one of the versions. Of every object it reads no more than its key, unless the key
// is one of the resources'.
var Stored = host.Define("etcd.stored", func(ctx context.Context, in StoredRequest) ([]StoredObject, error) {
	pem, err := kubeadm.LocalEtcdClient()
	if err != nil {
		return nil, err
	}
	client, err := connect(in.Endpoints, pem)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return stored(ctx, client, in.Types)
}, host.Reads)

func stored(ctx context.Context, kv clientv3.KV, types []StoredType) ([]StoredObject, error) {
	out := []StoredObject{}
	from, end := registry, clientv3.GetPrefixRangeEnd(registry)
	for {
		keys, err := kv.Get(ctx, from, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithLimit(page))
		if err != nil {
			return nil, fmt.Errorf("reading the keys in etcd: %w", err)
		}
		for _, k := range keys.Kvs {
			from = string(k.Key) + "\x00"
			if !slices.ContainsFunc(types, func(t StoredType) bool { return t.mayBe(string(k.Key)) }) {
				continue
			}
			value, err := kv.Get(ctx, string(k.Key))
			if err != nil {
				return nil, fmt.Errorf("reading %s in etcd: %w", k.Key, err)
			}
			if len(value.Kvs) == 0 {
				continue // it was deleted
			}
			version := apiVersion(value.Kvs[0].Value)
			if slices.ContainsFunc(types, func(t StoredType) bool { return t.APIVersion == version && t.mayBe(string(k.Key)) }) {
				out = append(out, StoredObject{version, strings.TrimPrefix(string(k.Key), registry)})
			}
		}
		if !keys.More || len(keys.Kvs) == 0 {
			return out, nil
		}
	}
}

// mayBe says that a key can be that of an object of the type: the resource is one of its first parts, before or after a group.
func (t StoredType) mayBe(key string) bool {
	parts := strings.SplitN(strings.TrimPrefix(key, registry), "/", 3)
	return slices.ContainsFunc(t.Resources, func(r string) bool { return slices.Contains(parts[:min(2, len(parts))], r) })
}

// protobufPrefix is before objects that are stored as protocol buffers.
var protobufPrefix = []byte("k8s\x00")

// apiVersion is the version in which an object is stored; empty if that cannot be told, as for encrypted ones.
func apiVersion(value []byte) string {
	if rest, ok := bytes.CutPrefix(value, protobufPrefix); ok {
		// runtime.Unknown: field 1 is a TypeMeta, of which field 1 is the version.
		meta, ok := firstField(rest)
		if !ok {
			return ""
		}
		version, _ := firstField(meta)
		return string(version)
	}
	var object struct {
		APIVersion string `json:"apiVersion"`
	}
	if json.Unmarshal(value, &object) != nil {
		return ""
	}
	return object.APIVersion
}

// firstField is the content of the field 1 of a message that begins with it.
func firstField(message []byte) ([]byte, bool) {
	const field1 = 1<<3 | 2 // length-delimited
	if len(message) == 0 || message[0] != field1 {
		return nil, false
	}
	n, used := binary.Uvarint(message[1:])
	if used <= 0 || n > uint64(len(message)-1-used) {
		return nil, false
	}
	return message[1+used:][:n], true
}
