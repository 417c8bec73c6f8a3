"""The updates of this package inside of other libraries' algorithms, a module each."""
