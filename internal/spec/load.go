package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"unicode/utf8"

	// go.yaml.in/yaml is go-yaml in the hands of the YAML organization, the parser that Kubernetes itself uses. Its node tree
	// keeps the line of every key and value, which is all that is needed here: decoding is our own, because a library's stops
	// at the first problem of a value and can neither name the path nor the field that was meant.
	"go.yaml.in/yaml/v4"
)

// maxSize bounds what is read: the spec of the largest cluster that Kubernetes supports, 5,000 nodes,
// is about a quarter of it.
const maxSize = 4 << 20

// Check is Parse, Default and Validate in one. The error is [Errors] and holds everything that is
// wrong, from typing errors to an impossible topology; problems that only follow from another
// are left out.
func Check(data []byte, filename string, opts Options) (*Cluster, error) {
	c, d := parse(data, filename)
	if c == nil {
		return nil, d.problems.orNil()
	}
	if c.Spec.Kubernetes.Version == "" {
		c.Spec.Kubernetes.Version = newest(opts.versions())
	}
	c.Default()
	found := append(d.problems, validate(c, opts, d.spoiled)...)
	if len(found) > 0 {
		return nil, found.sorted()
	}
	return c, nil
}

// Parse reads a spec as it is written, without defaults. The error is [Errors] and holds every
// syntax error, unknown field and wrong type. filename is only for messages.
func Parse(data []byte, filename string) (*Cluster, error) {
	c, d := parse(data, filename)
	if len(d.problems) > 0 {
		return nil, d.problems.sorted()
	}
	return c, nil
}

// Load is Parse for a file.
func Load(path string) (*Cluster, error) {
	data, err := Read(path)
	if err != nil {
		return nil, err
	}
	return Parse(data, path)
}

// Read returns the bytes of a spec file, for Parse and Check.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the spec: %s does not exist; `quorate init` writes one", path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the spec: %w", err)
	}
	defer f.Close()
	// One byte more than allowed, so that parse sees, and says, that the file is too large.
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the spec: %w", err)
	}
	return data, nil
}

// parse returns a nil Cluster only if there is nothing that could be validated any further.
func parse(data []byte, filename string) (*Cluster, *decoder) {
	d := newDecoder(filename)
	return d.cluster(data), d
}

func newDecoder(filename string) *decoder {
	return &decoder{format: specFile, src: &source{file: filename, at: map[string]position{}}, budget: maxValues}
}

// cluster decodes the only document of the file; nil if there is nothing to decode.
func (d *decoder) cluster(data []byte) *Cluster {
	root := d.document(data)
	if root == nil {
		return nil
	}
	c := &Cluster{src: d.src}
	d.root(root, c)
	return c
}

// document returns the content of the file's only document, or nil after noting why there is none.
func (d *decoder) document(data []byte) *yaml.Node {
	if len(data) > maxSize {
		d.note("", "the file is larger than 4 MiB", d.format.large)
		return nil
	}
	if bad := notUTF8(data); bad >= 0 {
		before := data[:bad]
		d.problems = append(d.problems, Problem{File: d.src.file, Line: bytes.Count(before, []byte("\n")) + 1, Column: bad - bytes.LastIndexByte(before, '\n'),
			Message: fmt.Sprintf("the file is not text in UTF-8: it has the byte 0x%02x", data[bad]), Fix: d.format.large + ", and save it in UTF-8"})
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil { // an empty stream may be refused right here
		d.syntax(err)
		return nil
	}
	var found *yaml.Node
	for {
		var doc yaml.Node
		switch err := loader.Load(&doc); {
		case errors.Is(err, io.EOF):
			if found == nil {
				d.note("", "the file is empty", d.format.empty)
			}
			return found
		case err != nil:
			d.syntax(err)
			return nil
		}
		if len(doc.Content) == 0 || isNull(doc.Content[0]) {
			continue // nothing but comments between two markers
		}
		if found != nil {
			d.src.at["second document"] = position{doc.Line, doc.Column}
			p := d.src.problem("second document", "a second YAML document starts here", d.format.second)
			p.Path = ""
			d.problems = append(d.problems, p)
			return found
		}
		found = doc.Content[0]
	}
}

// notUTF8 is where the first byte is that no text in UTF-8 has there; -1 if there is none. A file that begins with the mark of UTF-16 is converted by
// the parser.
func notUTF8(data []byte) int {
	if bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff}) {
		return -1
	}
	for at := 0; at < len(data); {
		r, n := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && n == 1 {
			return at
		}
		at += n
	}
	return -1
}

// syntax notes what the YAML parser did not understand, at the place that it names.
func (d *decoder) syntax(err error) {
	p := Problem{File: d.src.file, Message: "this is not YAML: " + err.Error()}
	if le, ok := errors.AsType[*yaml.LoadError](err); ok {
		p.Line, p.Column = le.Mark.Line, le.Mark.Column
		p.Message = "this is not YAML: " + le.Message
		if le.ContextMsg != "" && le.ContextMark.Line > 0 && le.ContextMark != le.Mark {
			p.Message += fmt.Sprintf(" (%s that starts in line %d)", le.ContextMsg, le.ContextMark.Line)
		}
	}
	p.Fix = "look for a missing quote, colon, or bracket, a tab, or wrong indentation on this line or the one above"
	d.problems = append(d.problems, p)
}

// newest returns the highest of the versions, or "" if there is none.
func newest(versions []string) string {
	if len(versions) == 0 {
		return ""
	}
	return slices.MaxFunc(versions, compareVersions)
}
