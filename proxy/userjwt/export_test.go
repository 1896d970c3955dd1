package userjwt

// Forget forgets every verified token.
func (v *Verifier) Forget() {
	for i := range v.memory {
		if v.memory[i].Load() != nil {
			v.memory[i].Store(nil)
		}
	}
}
