FROM arm-only
