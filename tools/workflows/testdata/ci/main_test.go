package main

func (m *Fakeart) InATest() {}
