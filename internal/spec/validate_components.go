package spec

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

const componentsPath = "spec.components"

// belongs lists the fields that each source of a bundle has.
var belongs = map[string][]string{
	SourceModules:  nil,
	SourceOfficial: {"digest", "signatures"},
	SourceMirror:   {"releases", "registry", "caFile", "username", "passwordFile", "digest", "signatures"},
	SourceBundle:   {"file", "reference", "caFile", "username", "passwordFile", "digest"},
}

func (k *checker) components() {
	c := k.c.Spec.Components
	k.choose(componentsPath+".source", "Components.source", c.Source)
	fields, known := belongs[c.Source]
	if !known {
		return
	}
	for _, f := range []struct{ name, value string }{
		{"file", c.File}, {"reference", c.Reference}, {"releases", c.Releases}, {"registry", c.Registry},
		{"caFile", c.CAFile}, {"username", c.Username}, {"passwordFile", c.PasswordFile}, {"digest", c.Digest},
		{"signatures", cmp.Or(c.Signatures.Require, c.Signatures.PublicKeyFile, c.Signatures.Identity, c.Signatures.Issuer, c.Signatures.TrustedRootFile)},
	} {
		if f.value != "" && !slices.Contains(fields, f.name) {
			k.refuse(componentsPath+"."+f.name, "remove it, or choose "+or(sourcesWith(f.name))+" as the source", "the source `%s` has no field %s", c.Source, f.name)
		}
	}
	k.digest(componentsPath, c.Digest)
	for _, of := range []struct {
		path string
		ArchBundle
	}{{componentsPath + ".amd64", c.AMD64}, {componentsPath + ".arm64", c.ARM64}} {
		for _, f := range []struct{ name, value string }{{"file", of.File}, {"reference", of.Reference}, {"digest", of.Digest}} {
			if f.value != "" && !slices.Contains(fields, f.name) {
				k.refuse(of.path+"."+f.name, "remove it, or choose "+or(sourcesWith(f.name))+" as the source", "the source `%s` has no field %s", c.Source, f.name)
			}
		}
		k.digest(of.path, of.Digest)
		if of.File != "" && of.Reference != "" {
			k.refuse(of.path+".reference", "keep one of them", "it names both a file and a reference")
		}
		if of.Reference != "" {
			k.reference(of.path, of.Reference)
		}
	}
	if (c.Username == "") != (c.PasswordFile == "") {
		k.refuse(componentsPath+".username", "set both, or neither", "username and passwordFile must be set together")
	}
	if slices.Contains(fields, "signatures") {
		k.signatures(c.Signatures, c.Source == SourceMirror)
	}
	switch c.Source {
	case SourceMirror:
		k.mirror(c)
	case SourceBundle:
		k.bundle(c)
	}
}

// signatures checks what has to be signed. Where nothing is said, a mirror need not have any, and so nothing is verified.
func (k *checker) signatures(s Signatures, mirror bool) {
	const path = componentsPath + ".signatures"
	if s.Require != "" {
		k.choose(path+".require", "Signatures.require", s.Require)
	}
	identity := s.Identity != "" || s.Issuer != ""
	switch key := s.PublicKeyFile != ""; {
	case s.Require != SignaturesAll && (key || identity):
		k.refuse(path+".require", "set require: all, or remove them", "publicKeyFile, identity, and issuer name a signer of everything, but require is not all")
	case s.Require == SignaturesAll && key == identity:
		k.refuse(path+".require", "set publicKeyFile, or identity and issuer", "with require: all, one signer must have signed everything, and no signer is named")
	case identity && (s.Identity == "" || s.Issuer == ""):
		k.refuse(path+".identity", "set both: several issuers can vouch for the same name", "identity and issuer must be set together")
	case s.TrustedRootFile != "" && key:
		k.refuse(path+".trustedRootFile", "remove it", "a trusted root is only used for identities, and none is verified")
	case s.TrustedRootFile != "" && (s.Require == SignaturesNone || s.Require == "" && mirror):
		// A user who names a trusted root expects something to be verified against it.
		k.refuse(path+".trustedRootFile", "set require: published or all, or remove it", "a trusted root is only used for identities, and none is verified")
	}
}

func sourcesWith(field string) []string {
	var out []string
	for _, source := range choices["Components.source"] {
		if slices.Contains(belongs[source], field) {
			out = append(out, source)
		}
	}
	return out
}

func (k *checker) digest(path, d string) {
	if d != "" && !isDigest(d) {
		k.refuse(path+".digest", "copy it from the output of `quorate bundle list`", "`%s` is not a digest", d)
	}
}

func (k *checker) reference(path, reference string) {
	if repo, d, ok := strings.Cut(reference, "@"); !ok || repo == "" || !isDigest(d) {
		k.refuse(path+".reference", "write it as `quorate bundle push` printed it: registry.example.com/repository@sha256:…",
			"`%s` does not name a bundle by its digest, and a tag can move to another bundle", reference)
	}
}

func isDigest(s string) bool {
	d, err := digest.Parse(s)
	return err == nil && d.Algorithm() == digest.SHA256
}

func (k *checker) mirror(c Components) {
	const example = "write it as https://mirror.example.com/releases"
	u, err := url.Parse(c.Releases)
	switch path := componentsPath + ".releases"; {
	case c.Releases == "":
		k.refuse(path, example+"; `quorate bundle sources` lists what it must hold", "the source `mirror` needs the address of the released files, and none is given")
	case err != nil || u.Host == "":
		k.refuse(path, example, "`%s` is not an address", c.Releases)
	case u.Scheme != "https":
		k.refuse(path, "use https", "over `%s`, an attacker could change the files together with their checksums", u.Scheme)
	case u.User != nil:
		k.refuse(path, "use username and passwordFile", "the address must not contain a password")
	}
	switch path := componentsPath + ".registry"; {
	case c.Registry == "":
		k.refuse(path, "write it as registry.example.com/mirror; `quorate bundle sources` lists what it must hold", "the source `mirror` needs a registry for the images, and none is given")
	case strings.Contains(c.Registry, "://") || strings.ContainsAny(c.Registry, " @"):
		k.refuse(path, "write it as registry.example.com/mirror, without a scheme", "`%s` is not the name of a registry", c.Registry)
	}
}

func (k *checker) bundle(c Components) {
	switch {
	case c.File == "" && c.Reference == "" && c.AMD64 == (ArchBundle{}) && c.ARM64 == (ArchBundle{}):
		k.refuse(componentsPath+".file", "name the file that `quorate bundle export` wrote, or the reference that `quorate bundle push` printed",
			"the source `bundle` reads a file or pulls a reference, and neither is set")
	case c.File != "" && c.Reference != "":
		k.refuse(componentsPath+".reference", "keep one of them", "the source `bundle` has both a file and a reference")
	case c.Reference != "":
		k.reference(componentsPath, c.Reference)
	case (c.CAFile != "" || c.Username != "") && c.AMD64.Reference == "" && c.ARM64.Reference == "":
		k.refuse(componentsPath+".file", "remove caFile, username and passwordFile", "a file needs no login")
	}
}

// CheckDigest checks a flag that stands for components.digest.
func CheckDigest(digest string) error {
	k := &checker{c: &Cluster{}}
	k.digest(componentsPath, digest)
	return k.errs.orNil()
}

// CheckSignatures checks flags that stand for components.signatures, for a mirror or for the projects' own addresses.
func CheckSignatures(s Signatures, mirror bool) error {
	k := &checker{c: &Cluster{}}
	k.signatures(s, mirror)
	return k.errs.orNil()
}
