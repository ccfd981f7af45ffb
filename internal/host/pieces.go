package host

import "io"

// Pieces reads what is larger than a reply: next returns the piece that begins at an offset, and an empty one at the end.
func Pieces(next func(offset int64) ([]byte, error)) io.Reader { return &pieces{next: next} }

type pieces struct {
	next   func(int64) ([]byte, error)
	offset int64
	rest   []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		piece, err := p.next(p.offset)
		if err != nil {
			return 0, err
		}
		if len(piece) == 0 {
			return 0, io.EOF
		}
		p.rest = piece
		p.offset += int64(len(piece))
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}
