package edge

// Peers returns how many peers are remembered.
func (k *AdminKey) Peers() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.peers.Len()
}
