package host

// Lose ends the session as HTTP/2 does when its pings stay unanswered.
func (c *Conn) Lose() { c.now.Load().pipe.Close() }
