"""The generated protobuf and gRPC code of `session_authority.v1`. Made by `make proto`: do not edit."""
